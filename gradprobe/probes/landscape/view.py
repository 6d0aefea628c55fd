"""Tables, sentences and labels of landscapes; a ratio is never written without its grid."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.columns import Cell, Row, interval, number, short
from gradprobe.probes import seeds_view
from gradprobe.probes.landscape.result import LandscapeResult

MEANING = (
    "A step's size belongs to its grid and its number of images: jumps of a mean loss shrink with more images, a "
    "smooth surface's steps do not."
)
GEOMETRIC = "The mean over seeds of mean steps and of ratios is geometric."
LEVEL: dict[str, Cell] = {
    "loss": lambda row: number(row["loss"], 3),
    "range": lambda row: short(row["range"]),
    "cos(d1, d2)": lambda row: number(row["cosine"], 3),
}
LABELS = {  # keys of the question that may tell results apart, after the operator
    "steps": "@{}", "noise": "{} noise", "k": "K = {}", "axes": "axes {}", "backbone": "{}", "scorer": "{}",
    "grid": "grid {}", "reach": "reach {}", "one_d": "one-d {}", "params": "params {}", "images": "{} images",
    "checkpoints": "through {}", "learning_rate": "rate {}", "train_batch": "batch {}", "seed": "seed {}",
}  # fmt: skip


def table(rows: Sequence[Row]) -> Group:
    """Return tables of the loss at theta, of the steps along d2 and d1 and of the total variation; 80 columns suffice.

    Args:
        rows: Rows as `gradprobe.probes.landscape.result.LandscapeResult.row` makes them.
    """
    tables = [_table(rows, LEVEL, "")]
    for d in ("d2", "d1"):
        if along := [row for row in rows if f"{d}_variation" in row]:
            spacing = ", ".join(dict.fromkeys(short(row[f"{d}_step"]) for row in along))
            for title, columns in _steps_tables(along, d).items():
                tables.append(_table(along, columns, title.format(d=d, spacing=spacing)))
            tables.append(_table(along, variation_columns(d), f"total variation along {d}"))
    tables[-1].caption = (
        "mean: the paper's stepwise variation; exponent: p in TV ~ h^-p between the two grids, 0: smooth, "
        "1/2: a random walk, 1: noise of its own at every point"
    )
    if seeds_view.pooled(rows):
        tables[-1].caption = f"{tables[-1].caption}. {seeds_view.MARKED}"
    return Group(*tables)


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return sentences for each compared row and direction: ratios of steps and bends, both ways, with the grid.

    Args:
        rows: Rows of the table.
        baseline: Name of the operator that they were compared with.
    """
    sentences = []
    for row in rows:
        for d in ("d2", "d1"):
            if row.get(f"{d}_ratio") is None:
                continue
            sentences.append(
                f"{row['op']}: mean step along {d} is {_ratio(row, f'{d}_ratio')} times that of {baseline}, "
                f"{baseline}'s {_ratio(row, f'{d}_ratio', inverse=True)} times this one's; mean second difference "
                f"{_ratio(row, f'{d}_second_ratio')} and {_ratio(row, f'{d}_second_ratio', inverse=True)}: {grid(row)}"
                f"{seeds_view.decision(row, f'{d}_ratio', ratio=True)}"
            )
    return sentences


def plane_lines(results: Sequence[LandscapeResult]) -> list[str]:
    """Return a sentence for each principal plane: the share of the training trajectory that it holds."""
    sentences = []
    for label, result in zip(labels(results), results, strict=True):
        if len(result.explained):
            second, first = result.explained
            sentences.append(
                f"{label}: the plane holds {first:.0%} + {second:.0%} of the trajectory's squared distances from its "
                f"end; checkpoints lie up to {result.residual.max():.0%} of their distance off it"
            )
    return sentences


def meaning(rows: Sequence[Row]) -> str:
    """Return the words that keep a step's size with its grid."""
    return " ".join(filter(None, [MEANING, seeds_view.meaning(rows, "images", GEOMETRIC)]))


def labels(results: Sequence[LandscapeResult]) -> list[str]:
    """Return the label of each result: the operator, and the settings in which the results differ."""
    questions = [result.question for result in results]
    values = {key: {str(question[key]) for question in questions if key in question} for key in LABELS}
    return [
        " ".join([q["op"], *(LABELS[key].format(q[key]) for key in LABELS if key in q and len(values[key]) > 1)])
        for q in questions
    ]


def steps_columns(d: str) -> dict[str, Cell]:
    """Return the columns of the steps along a direction."""
    return {
        "mean [95 %]": lambda row: spread(row[f"{d}_variation"], row[f"{d}_low"], row[f"{d}_high"]),
        "median": lambda row: short(row[f"{d}_median"]),
        "largest": lambda row: short(row[f"{d}_largest"]),
        "zero": lambda row: "–" if row[f"{d}_zero_share"] is None else f"{row[f'{d}_zero_share']:.0%}",
        "2nd diff.": lambda row: short(row[f"{d}_second_difference"]),
    }


def _steps_tables(rows: Sequence[Row], d: str) -> dict[str, dict[str, Cell]]:
    """Return the tables of the steps along a direction by title; over seeds the mean step has one of its own."""
    title, columns = "steps |L(i+1) - L(i)| along {d}, {spacing} apart", steps_columns(d)
    if not seeds_view.pooled(rows):
        return {title: columns}
    mean, *others = columns
    first: dict[str, Cell] = {
        mean: columns[mean],
        "each seed": seeds_view.each_seed(f"{d}_variation", two),
        "vs base": seeds_view.versus(f"{d}_ratio", ratio=True),
    }
    return {title: first, "the same steps, means over seeds": {name: columns[name] for name in others}}


def variation_columns(d: str) -> dict[str, Cell]:
    """Return the columns of the total variation along a direction."""
    return {
        "fine": lambda row: short(row[f"{d}_tv"]),
        "coarse": lambda row: short(row.get(f"{d}_tv_coarse")),
        "every": lambda row: str(row.get(f"{d}_factor", "–")),
        "exponent [95 %]": lambda row: interval(
            row.get(f"{d}_exponent"), row.get(f"{d}_exponent_low"), row.get(f"{d}_exponent_high")
        ),
    }


def spread(value: float | None, low: float | None, high: float | None) -> str:
    """Return a positive number of any size and its interval, to two figures.

    Example:
        >>> spread(0.000512, 0.000401, 0.00062), spread(0.02, None, None)
        ('0.00051 [0.0004, 0.00062]', '0.02')
    """
    return short(value) if value is None or low is None or high is None else f"{value:.2g} [{low:.2g}, {high:.2g}]"


def two(value: float | None) -> str:
    """Return a positive number of any size to two figures."""
    return short(value) if value is None else f"{value:.2g}"


def grid(row: Row) -> str:
    """Return the grid, spacing and images that a number belongs to.

    Example:
        >>> row = {"rows": 1, "columns": 81, "d2_step": 0.0075, "images": 64, "noise": "common", "axes": "random"}
        >>> grid(row)
        '81 points 0.0075 apart, 64 images, common noise'
    """
    size = f"{row['columns']} points" if row["rows"] == 1 else f"{row['rows']}x{row['columns']} grid"
    return f"{size} {short(row['d2_step'])} apart, {row['images']} images, {row['noise']} noise"


def _ratio(row: Row, name: str, inverse: bool = False) -> str:
    """Return a ratio and its interval, or the inverse and its interval."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if inverse and value:
        value, low, high = 1 / value, 1 / high if high else None, 1 / low if low else None
    small = value is not None and (value < 0.1 or (low is not None and low < 0.05))
    return spread(value, low, high) if small else interval(value, low, high)


def _table(rows: Sequence[Row], columns: Mapping[str, Cell], title: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption_justify="left",
        title=title or None,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("operator", overflow="fold", min_width=17)  # gumbel-ste+gather
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["op"], *(cell(row) for cell in columns.values()))
    return table

"""Rows of landscapes -> the table for the terminal, and sentences that keep a ratio with its grid."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.columns import Cell, Row, interval, names, number, short
from gradprobe.plotting.escape import code_span

LEVEL: dict[str, Cell] = {
    "loss": lambda row: number(row["loss"], 3),
    "range": lambda row: short(row["range"]),
    "cos(d1, d2)": lambda row: number(row["cosine"], 3),
}


def landscape_table(rows: Sequence[Row]) -> Group:
    """Loss at theta, stepwise variation along d2 and d1, and total variation at two resolutions; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.landscape.result.LandscapeResult.row` makes them.

    Returns:
        What rich prints.
    """
    tables = [_table(rows, LEVEL, "")]
    for d in ("d2", "d1"):
        if rows and f"{d}_variation" in rows[0]:
            tables.append(_table(rows, steps_columns(d), f"steps |L(i+1) - L(i)| along {d}, {_spacing(rows, d)} apart"))
            tables.append(_table(rows, variation_columns(d), f"total variation along {d}"))
    tables[-1].caption = (
        "mean: the paper's stepwise variation; exponent: p in TV ~ h^-p between the two grids, 0: smooth, "
        "1/2: a random walk, 1: noise of its own at every point"
    )
    return Group(*tables)


def steps_columns(d: str) -> dict[str, Cell]:
    """Columns of the steps along a direction."""
    return {
        "mean [95 %]": lambda row: spread(row[f"{d}_variation"], row[f"{d}_low"], row[f"{d}_high"]),
        "median": lambda row: short(row[f"{d}_median"]),
        "largest": lambda row: short(row[f"{d}_largest"]),
        "zero": lambda row: "–" if row[f"{d}_zero_share"] is None else f"{row[f'{d}_zero_share']:.0%}",
        "2nd diff.": lambda row: short(row[f"{d}_second_difference"]),
    }


def variation_columns(d: str) -> dict[str, Cell]:
    """Columns of the total variation along a direction."""
    return {
        "fine": lambda row: short(row[f"{d}_tv"]),
        "coarse": lambda row: short(row.get(f"{d}_tv_coarse")),
        "every": lambda row: str(row.get(f"{d}_factor", "–")),
        "exponent [95 %]": lambda row: interval(
            row.get(f"{d}_exponent"), row.get(f"{d}_exponent_low"), row.get(f"{d}_exponent_high")
        ),
    }


def spread(value: float | None, low: float | None, high: float | None) -> str:
    """A positive number of any size and its interval, to two figures.

    Example:
        >>> spread(0.000512, 0.000401, 0.00062), spread(0.02, None, None)
        ('0.00051 [0.0004, 0.00062]', '0.02')
    """
    return short(value) if value is None or low is None or high is None else f"{value:.2g} [{low:.2g}, {high:.2g}]"


def grid(row: Row) -> str:
    """The grid, spacing and images that a number belongs to.

    Example:
        >>> row = {"rows": 1, "columns": 81, "d2_step": 0.0075, "images": 64, "noise": "common", "axes": "random"}
        >>> grid(row)
        '81 points 0.0075 apart, 64 images, common noise'
    """
    size = f"{row['columns']} points" if row["rows"] == 1 else f"{row['rows']}x{row['columns']} grid"
    return f"{size} {short(row['d2_step'])} apart, {row['images']} images, {row['noise']} noise"


def ratio_lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Sentences for each compared row and direction: ratios of mean steps and second differences, both ways, with grid.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.
    """
    lines = []
    for name, row in zip(names(rows), rows, strict=True):
        for d in ("d2", "d1"):
            if row.get(f"{d}_ratio") is None:
                continue
            lines.append(
                f"{name}: mean step along {d} is {_ratio(row, f'{d}_ratio')} times that of {baseline}, {baseline}'s "
                f"{_ratio(row, f'{d}_ratio', inverse=True)} times this one's; mean second difference "
                f"{_ratio(row, f'{d}_second_ratio')} and {_ratio(row, f'{d}_second_ratio', inverse=True)}: {grid(row)}"
            )
    return lines


def markdown_table(rows: Sequence[Row]) -> str:
    """The numbers along d2 as one Markdown table."""
    columns = LEVEL | steps_columns("d2") | variation_columns("d2")
    lines = [["operator", *columns], [":--", *["--:"] * len(columns)]]
    lines += [
        [code_span(n), *(cell(row) for cell in columns.values())] for n, row in zip(names(rows), rows, strict=True)
    ]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _ratio(row: Row, name: str, inverse: bool = False) -> str:
    """A ratio and its interval, or its inverse's."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if inverse and value:
        value, low, high = 1 / value, 1 / high if high else None, 1 / low if low else None
    return spread(value, low, high) if value is not None and value < 0.1 else interval(value, low, high)


def _spacing(rows: Sequence[Row], d: str) -> str:
    return ", ".join(dict.fromkeys(short(row[f"{d}_step"]) for row in rows))


def _table(rows: Sequence[Row], columns: Mapping[str, Cell], title: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left", title=title or None,
        title_justify="left", title_style="bold",
    )  # fmt: skip
    table.add_column("operator", overflow="fold", min_width=17)  # gumbel-ste+gather
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in zip(names(rows), rows, strict=True):
        table.add_row(name, *(cell(row) for cell in columns.values()))
    return table

"""Rows of equivalence -> tables and sentences for the terminal."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gradprobe.plotting.columns import Row, interval, number, short

MEANING = (
    "Scores are the same for all operators: random, or a selector's (--scores). gap: share of right answers less the "
    "baseline's on the same images. equivalent: the gap is shown to be below the margin (two one-sided tests at 5 %); "
    "small gap: it is, and yet it is not 0; different: it is not 0, and not shown to be below the margin; undecided: "
    "neither."
)
FEWEST, REACH = 10, 100  # images that differ, and times the images at hand, as in `gradprobe.statistics.proportions`
COUNTS = {"top1": "top-1", "top5": "top-5"}


def table(rows: Sequence[Row]) -> Group:
    """Return accuracies and gaps to the baseline, a table each for top-1 and top-5; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.equivalence.result.EquivalenceResult.row` makes them, those of one K together.

    Returns:
        What rich prints.
    """
    return Group(*(_table(rows, of) for of in COUNTS))


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return a sentence for each compared row: both accuracies, their difference and what it means.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.

    Returns:
        Sentences on top-1, and on top-5 where the verdict is another one.
    """
    sentences = []
    for row in rows:
        for of, name in COUNTS.items():
            if row[f"{of}_verdict"] is None or (of == "top5" and row["top1_verdict"] == row["top5_verdict"]):
                continue
            other = (round(row[of] * row["images"]) - row[f"{of}_gained"] + row[f"{of}_lost"]) / row["images"]
            sentences.append(
                f"{row['op']} at K = {row['k']}: {name} {number(row[of], 3)} against {number(other, 3)} of {baseline}, "
                f"difference {gap(row, of)}: {in_words(row, of)} (exact McNemar p = "
                f"{short(row[f'{of}_mcnemar'])}, below 0.05 a gap is seen; two "
                f"one-sided tests p = {short(row[f'{of}_tost'])})"
            )
    return sentences


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for gaps and verdicts."""
    return MEANING


def in_words(row: Row, of: str = "top1") -> str:
    """Return the meaning of a row's difference, with the margin and the number of images that would tell more.

    Args:
        row: compared with a baseline.
        of: ``top1`` or ``top5``.

    Example:
        >>> row = {"margin": 0.01, "top1_verdict": "undecided", "top1_needed": 4321.0}
        >>> in_words(row)
        'undecided; about 4300 images would decide'
    """
    verdict, margin, needed = row[f"{of}_verdict"], f"{row['margin']:g}", row[f"{of}_needed"]
    about = None if needed is None else f"about {float(f'{needed:.2g}'):.0f} images"
    few = row.get(f"{of}_gained") is not None and row[f"{of}_gained"] + row[f"{of}_lost"] < FEWEST
    if verdict == "equivalent":
        return f"equivalent within {margin}"
    if verdict == "small gap":
        return f"a gap, and one below the margin: equivalent within {margin}, but not equal"
    if verdict == "undecided":
        if about is None and few:
            return f"undecided; fewer than {FEWEST} images differ, too few to say how many would decide"
        return f"undecided; {about or f'more than {REACH} times these images'} would decide"
    if row[f"{of}_difference_low"] >= row["margin"] or row[f"{of}_difference_high"] <= -row["margin"]:
        return f"different, beyond the margin of {margin}"
    more = f"{about} would show that" if about else "with shares like these no number we know of would show that"
    return f"different; {more} it is below the margin of {margin}"


def gap(row: Row, of: str = "top1") -> str:
    """Return the difference to the baseline with its interval and sign; an en dash where nothing was compared."""
    return interval(row[f"{of}_difference"], row[f"{of}_difference_low"], row[f"{of}_difference_high"])


def _table(rows: Sequence[Row], of: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("operator", overflow="fold", min_width=18)
    for heading in (f"{COUNTS[of]} [95 %]", "gap [95 %]"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for k, group in groupby(rows, key=lambda row: row["k"]):
        table.add_section()
        table.add_row(Text(f"K = {k} of {rows[0]['tokens']}", "bold"))
        for row in group:
            accuracy = interval(row[of], row[f"{of}_low"], row[f"{of}_high"])
            table.add_row(row["op"], accuracy, gap(row, of), row[f"{of}_verdict"] or "–")
    return table

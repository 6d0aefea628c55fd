"""Table of rankings for the terminal, and sentences on which end is more redundant."""

from collections.abc import Sequence

from rich.table import Table

from gradprobe.plotting.columns import Row, interval, name_of, number, seeds
from gradprobe.plotting.columns import table as tabulated
from gradprobe.settings import RANKED

FEWEST_SEEDS = 5  # from which on what was trained is decided, as in `gradprobe.statistics.ratios`
AT_RANDOM = "keeps a set without scores: its bottom are K of the dropped tokens, drawn at random"


def table(rows: Sequence[Row]) -> Table:
    """Return the mean cosines of each operator and plan; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.ranking.result.over_seeds` makes them.
    """
    columns = {
        "top": lambda row: number(row["top"]),
        "bottom": lambda row: number(row["bottom"]),
        "any": lambda row: number(row["every"]),
        "bottom - top [95 %]": lambda row: interval(row["gap"], row["gap_low"], row["gap_high"]),
    }
    if any("relevant" in row for row in rows):
        columns["relevant"] = lambda row: "/".join(number(row.get(f"relevant_{end}")) for end in ("top", "bottom"))
    names = [{**row, "op": name_of(row), "steps": None} for row in rows]  # training steps are no part of a name
    return tabulated(names, columns)


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return a sentence for each row: which end is more alike, in how many images, and how sure that is.

    Args:
        rows: of the table.
        baseline: there is none.
    """
    sentences = []
    for row in rows:
        gap = interval(row["gap"], row["gap_low"], row["gap_high"])
        shown = (
            f"{name_of(row)} at K = {row['k']}: bottom less top {gap}, above 0 in {100 * row['held']:.0f} % of images"
        )
        note = "" if row["scored"] else f" ({AT_RANDOM})"
        sentences.append(f"{shown}: {verdict(row)}{note}")
    return sentences


def verdict(row: Row) -> str:
    """Return the end that is more redundant in words; undecided where the interval holds 0 or there is none."""
    trained, count = not str(row["op"]).startswith(RANKED), len(row["seeds"])
    if trained and 1 < count < FEWEST_SEEDS:
        return f"undecided, {seeds(count)} ({FEWEST_SEEDS} decide)"
    low, high = row["gap_low"], row["gap_high"]
    if low is None or high is None or low <= 0 <= high:
        return "undecided"
    words = f"the {'bottom' if low > 0 else 'top'} is more redundant"
    return f"{words}, of this one scorer" if trained and count == 1 else words


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the columns and intervals."""
    return (
        "top, bottom: mean cosine of two different tokens among the K first and the K last; any: of any two tokens; "
        "relevant: share of tokens that matter in top and bottom, where that is known. Intervals are over test images; "
        "those of several trained scorers are over seeds with their images nested, from 5 on."
    )

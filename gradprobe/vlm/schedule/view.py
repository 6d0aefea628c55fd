"""Table of schedules for the terminal, and the words for it (no torch)."""

from collections.abc import Sequence

from rich.table import Table

from gradprobe.plotting.columns import Row, interval, number
from gradprobe.plotting.columns import table as tabulated


def counts_of(row: Row) -> str:
    """Return the tokens of the layers; of several seeds those of the first and the number of other schedules.

    Example:
        >>> counts_of({"counts": [[9, 4, 1]]}), counts_of({"counts": [[9, 4, 1], [9, 4, 1], [9, 3, 1]]})
        ('9,4,1', '9,4,1 +1')
    """
    each = [tuple(counts) for counts in row["counts"]]
    others = len(set(each)) - 1
    return ",".join(map(str, each[0])) + (f" +{others}" if others else "")


def table(rows: Sequence[Row]) -> Table:
    """Return the budget, share, tokens, loss and accuracy of each schedule.

    Args:
        rows: As `gradprobe.vlm.schedule.result.over_seeds` makes them.
    """
    columns = {
        "kernel": lambda row: str(row["kernel"]),
        "budget": lambda row: f"{row['budget']:g}",
        "share": lambda row: number(row["share"], 4),
        "tokens": counts_of,
        "loss [95 %]": lambda row: interval(row["loss"], row["loss_low"], row["loss_high"]),
    }
    return tabulated([{**row, "steps": None} for row in rows], columns)


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return a sentence on the answers and on the loss with all tokens.

    Args:
        rows: Of the table.
        baseline: There is none.
    """
    sentences = []
    for row in rows:
        accuracy = (row[f"accuracy{end}"] for end in ("", "_low", "_high"))
        told = f"{row['kernel']} at {row['budget']:g}: loss with all tokens {number(row['whole'], 3)}"
        right = "" if row["accuracy"] is None else f", right answers {interval(*accuracy)}"
        sentences.append(told + right)
    return sentences


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the columns and intervals."""
    return (
        "share: FLOPs that visual tokens take in the language model, of those with all tokens; loss: of the captions "
        "of fresh images, which neither were searched with nor chose the schedule. Intervals are over images; of "
        "several seeds, from 5 on, over seeds with their images nested."
    )

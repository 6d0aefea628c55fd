"""Columns, sentences and words of coherence."""

from collections.abc import Sequence

from rich.console import Group

from gradprobe.plotting import columns
from gradprobe.plotting.columns import Cell, Row, interval, number, short
from gradprobe.probes import seeds_view

MEANING = (
    "coherence: mean cosine between scorer gradients of different batches; 1: all batches point the same way, 0: "
    "nothing in common. centred: without the part that moves all scores of an image together, which changes no ranking."
)
STRONG = (
    "C: other batch, other draw; C_data: other batch, same draw; C_op: same batch, other draw; g: scorer gradient of a "
    "batch; m-coh: batches that agree; noise: gradient noise scale in images"
)
ENOUGH = 16  # batches, from which on an interval covers as it says (docs/statistics.md)


def setting(rows: Sequence[Row]) -> str:
    """Return the sizes behind the numbers, a line for each kind; without them a coherence means nothing.

    Example:
        >>> setting([{"batches": 32, "batch_size": 16, "draws": 2}])
        '32 batches of 16 images, 2 noise draws'
    """
    texts = [f"{r['batches']} batches of {r['batch_size']} images, {r['draws']} noise draws" for r in rows]
    return "\n".join(dict.fromkeys(texts))


def verdict(row: Row, of: str = "") -> tuple[str, str]:
    """Return why a compared row has no ratio, a word and its explanation; both empty if it has one or none was asked.

    Args:
        row: of the table.
        of: empty for the raw coherence, ``centred_`` for the other.
    """
    word, _, why = str(row[f"{of}ratio_reason"] or "").partition(": ")
    return (word, why) if why and row[f"{of}ratio"] is None else ("", "")


def ratio(row: Row, of: str = "") -> str:
    """Return the ratio to the baseline with its interval, "unbounded", or an en dash where nothing was compared."""
    if row[f"{of}ratio"] is None:
        return verdict(row, of)[0] or "–"
    return interval(row[f"{of}ratio"], row[f"{of}ratio_low"], row[f"{of}ratio_high"])


def difference(row: Row, of: str = "") -> str:
    """Return the difference to the baseline with its interval."""
    return interval(row[f"{of}difference"], row[f"{of}difference_low"], row[f"{of}difference_high"])


AGREEMENT: dict[str, Cell] = {
    "C [95 %]": lambda row: interval(row["coherence"], row["low"], row["high"]),
    "centred [95 %]": lambda row: interval(row["centred"], row["centred_low"], row["centred_high"]),
    "common": lambda row: number(row["common_mode"]),
}
POOLED: tuple[dict[str, Cell], ...] = tuple(
    {
        heading: AGREEMENT[heading],
        "each seed": seeds_view.each_seed(name),
        "vs base": seeds_view.versus(difference),
        **more,
    }
    for heading, name, difference, more in (
        ("C [95 %]", "coherence", "difference", {"common": AGREEMENT["common"]}),
        ("centred [95 %]", "centred", "centred_difference", {}),
    )
)
STRENGTH: dict[str, Cell] = {
    "C_data": lambda row: number(row["c_data"]),
    "C_op": lambda row: number(row["c_op"]),
    "|g|": lambda row: short(row["grad_norm"]),
    "m-coh": lambda row: short(row["m_coherence"]),
    "noise": lambda row: short(row["noise_scale"]),
}
SIZES: dict[str, Cell] = {
    "batches": lambda row: str(row["batches"]),
    "batch": lambda row: str(row["batch_size"]),
    "draws": lambda row: str(row["draws"]),
}


def table(rows: Sequence[Row]) -> Group:
    """Return two tables, agreement of gradients and their strength; legible at 80 columns.

    Args:
        rows: as `CoherenceResult.row` makes them.
    """
    if seeds_view.pooled(rows):
        return Group(
            *(columns.table(rows, each, none=each) for each in POOLED),
            columns.table(rows, STRENGTH | SIZES, f"{seeds_view.MARKED}. Means over seeds: {STRONG}", STRENGTH),
        )
    caption = "common: share of |u|^2 that moves all scores of an image alike; centred: C without it"
    if min(row["batches"] for row in rows) < ENOUGH:
        caption += f"; with fewer than {ENOUGH} batches these intervals cover 90 to 93 % near C = 1"
    return Group(
        columns.table(rows, AGREEMENT, caption, AGREEMENT),
        columns.table(rows, STRENGTH | SIZES, STRONG, STRENGTH),
    )


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return sentences for each compared row: the ratio to the baseline or, where it would mislead, the difference.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.

    Returns:
        Two for each compared row, of its raw and of its centred coherence.
    """
    sentences = []
    for name, row in zip(columns.names(rows), rows, strict=True):
        for word, of in (("C", ""), ("centred C", "centred_")):
            why = verdict(row, of)
            if row[f"{of}ratio"] is not None:
                decision = seeds_view.decision(row, f"{of}ratio", ratio=True)
                sentences.append(f"{name}: {word} is {ratio(row, of)} times that of {baseline}{decision}")
            elif why[0]:
                above = f"; {word} is {difference(row, of)} above it{seeds_view.decision(row, f'{of}difference')}"
                above = "" if row[f"{of}difference"] is None else above
                sentences.append(f"{name}: ratio of {word} to {baseline} {why[0]} ({why[1]}){above}")
    return sentences


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the columns that the sentences use."""
    return " ".join(filter(None, [MEANING, seeds_view.meaning(rows, "batches")]))

"""Columns and sentences of rows that are pooled over seeds, for the views of probes."""

from collections.abc import Callable, Sequence

from gradprobe.plotting.columns import Cell, Row, number, seeds
from gradprobe.probes.metrics import FEWEST_SEEDS, cell, mark

LINE = 2  # values of seeds in a line of a table
MARKED = (
    "▲ above, ▼ below the baseline, decided at 95 % over these seeds; · undecided; fewer than 5 seeds decide nothing"
)


def pooled(rows: Sequence[Row]) -> bool:
    """Tell whether rows are pooled over several seeds."""
    return any(len(row.get("seeds", ())) > 1 for row in rows)


def each_seed(name: str, form: Callable[[float | None], str] = number) -> Cell:
    r"""Return the column of a number's value with each seed, two in a line.

    Example:
        >>> each_seed("c")({"by_seed": {"c": [0.5, None, 0.25]}})
        '0.50 –\n0.25'
    """

    def shown(row: Row) -> str:
        values = [form(value) for value in row["by_seed"].get(name, ())]
        return "\n".join(" ".join(values[i : i + LINE]) for i in range(0, len(values), LINE))

    return shown


def versus(name: str, ratio: bool = False) -> Cell:
    """Return the column of the sign of a difference from the baseline, or of a ratio to it.

    Args:
        name: Field of the difference or ratio; its ends are followed by ``_low`` and ``_high``.
        ratio: Flag of a ratio, which is undecided around 1.
    """
    return lambda row: mark(cell(row, name, versus=name, ratio=ratio, seeds=row["difference_seeds"]))


def few(row: Row) -> str:
    """Return the words for a row whose seeds decide nothing, empty for others.

    Example:
        >>> few({"seeds": [1, 2], "difference_seeds": 2}), few({"op": "lapsum+vpnoise"})
        (': undecided, 2 seeds (5 decide)', '')
    """
    count = row.get("difference_seeds")
    if count is None or len(row["seeds"]) < 2:
        return ""
    return f": undecided, {seeds(count)} ({FEWEST_SEEDS} decide)" if count < FEWEST_SEEDS else f", over {seeds(count)}"


def decision(row: Row, name: str, ratio: bool = False) -> str:
    """Return the words of that sign; empty for one seed.

    Example:
        >>> decision({"seeds": [1, 2, 3], "difference_seeds": 3, "difference": 0.4}, "difference")
        ': undecided, 3 seeds (5 decide)'
        >>> decision({"seeds": [1], "difference_seeds": 1, "difference": 0.4}, "difference")
        ''
    """
    words = few(row)
    if not words.startswith(", over"):
        return words
    verdict = cell(row, name, versus=name, ratio=ratio, seeds=row["difference_seeds"])["verdict"]
    return f": {({'higher': 'above', 'lower': 'below'}).get(verdict, 'undecided')}{words}"


def meaning(rows: Sequence[Row], own: str, more: str = "") -> str:
    """Return a sentence on what the intervals of pooled rows hold; empty for rows of one seed.

    Args:
        rows: Of the table.
        own: Name of what is nested in a seed: images or batches.
        more: Sentence that follows.
    """
    if not pooled(rows):
        return ""
    count = max(len(row["seeds"]) for row in rows)
    if count < FEWEST_SEEDS:
        return f"{count} seeds: means, and no interval from fewer than {FEWEST_SEEDS}; read each seed. {more}".strip()
    words = (
        f"Means over {count} seeds (each its own scorer, noise and order of images), with intervals that hold the "
        f"seeds and the {own} nested in them; what is compared is paired by seed."
    )
    return f"{words} {more}".strip()

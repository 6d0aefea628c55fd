"""Rows of numbers -> tables for the terminal and for documents."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.escape import code_span

Row = Mapping[str, Any]
ENOUGH = 16  # batches, from which on an interval covers as it says (docs/statistics.md)
Cell = Callable[[Row], str]


def number(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals; an en dash where it is undefined.

    Example:
        >>> number(0.857), number(None), number(-0.0001), number(float("inf"))
        ('0.86', '–', '0.00', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def short(value: float | None) -> str:
    """A number of any size to three figures.

    Example:
        >>> short(1234.5), short(0.000123), short(5.25)
        ('1.23e+03', '0.000123', '5.25')
    """
    return f"{value:.3g}" if value is not None and math.isfinite(value) else number(value)


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """An estimate and its interval, with as many decimals as the width of the interval bears.

    Example:
        >>> interval(0.8571, 0.83, 0.8876), interval(0.0152, 0.0131, 0.0173), interval(28.41, 20.3, 39.9)
        ('0.857 [0.830, 0.888]', '0.015 [0.013, 0.017]', '28.4 [20.3, 39.9]')
    """
    if value is None or low is None or high is None or not math.isfinite(high - low):
        return number(value)
    digits = 1 if high - low >= 2 else 2 if high - low >= 0.2 else 3
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def names(rows: Sequence[Row]) -> list[str]:
    """What tells the rows apart: the operator, and the training steps where these differ."""
    several = len({row["steps"] for row in rows}) > 1
    return [f"{row['op']} @{row['steps']}" if several else str(row["op"]) for row in rows]


def setting(rows: Sequence[Row]) -> str:
    """The sizes behind the numbers, a line for each kind; without them a coherence means nothing.

    Example:
        >>> setting([{"batches": 32, "batch_size": 16, "draws": 2}])
        '32 batches of 16 images, 2 noise draws'
    """
    texts = [f"{r['batches']} batches of {r['batch_size']} images, {r['draws']} noise draws" for r in rows]
    return "\n".join(dict.fromkeys(texts))


def verdict(row: Row, of: str = "") -> tuple[str, str]:
    """Why a compared row has no ratio, as a word and its explanation; both empty if it has one or none was asked.

    Args:
        row: of the table.
        of: empty for the raw coherence, ``centred_`` for the other.
    """
    word, _, why = str(row[f"{of}ratio_reason"] or "").partition(": ")
    return (word, why) if why and row[f"{of}ratio"] is None else ("", "")


def ratio(row: Row, of: str = "") -> str:
    """The ratio to the baseline with its interval, "unbounded", or an en dash where nothing was compared."""
    if row[f"{of}ratio"] is None:
        return verdict(row, of)[0] or "–"
    return interval(row[f"{of}ratio"], row[f"{of}ratio_low"], row[f"{of}ratio_high"])


def difference(row: Row, of: str = "") -> str:
    """The difference to the baseline with its interval."""
    return interval(row[f"{of}difference"], row[f"{of}difference_low"], row[f"{of}difference_high"])


AGREEMENT: dict[str, Cell] = {
    "C [95 %]": lambda row: interval(row["coherence"], row["low"], row["high"]),
    "centred [95 %]": lambda row: interval(row["centred"], row["centred_low"], row["centred_high"]),
    "common": lambda row: number(row["common_mode"]),
}
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
COMPARED: dict[str, Cell] = {
    "ratio [95 %]": ratio,
    "centred ratio [95 %]": lambda row: ratio(row, "centred_"),
    "centred difference [95 %]": lambda row: difference(row, "centred_"),
}


def coherence_table(rows: Sequence[Row]) -> Group:
    """Coherence of each operator in two tables, how far gradients agree and how strong they are; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.coherence.result.CoherenceResult.row` makes them.

    Returns:
        What rich prints.
    """
    agreement = _table(rows, AGREEMENT)
    agreement.caption = "common: share of |u|^2 that moves all scores of an image alike; centred: C without it"
    if min(row["batches"] for row in rows) < ENOUGH:
        agreement.caption += f"; with fewer than {ENOUGH} batches these intervals cover 90 to 93 % near C = 1"
    strength = _table(rows, STRENGTH | SIZES)
    strength.caption = (
        "C: other batch, other draw; C_data: other batch, same draw; C_op: same batch, other draw; "
        "g: scorer gradient of a batch; m-coh: batches that agree; noise: gradient noise scale in images"
    )
    return Group(agreement, strength)


def ratio_lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Sentences for each row that was compared: the ratio to the baseline or, where it would mislead, the difference.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.

    Returns:
        Two for each compared row, of its raw and of its centred coherence.
    """
    lines = []
    for name, row in zip(names(rows), rows, strict=True):
        for word, of in (("C", ""), ("centred C", "centred_")):
            why = verdict(row, of)
            if row[f"{of}ratio"] is not None:
                lines.append(f"{name}: {word} is {ratio(row, of)} times that of {baseline}")
            elif why[0]:
                above = "" if row[f"{of}difference"] is None else f"; {word} is {difference(row, of)} above it"
                lines.append(f"{name}: ratio of {word} to {baseline} {why[0]} ({why[1]}){above}")
    return lines


def markdown_table(rows: Sequence[Row]) -> str:
    """The same numbers as one Markdown table."""
    columns = AGREEMENT | STRENGTH | (COMPARED if ratio_lines(rows, None) else {})
    lines = [["operator", *columns], [":--", *["--:"] * len(columns)]]
    lines += [[code_span(name), *_cells(row, columns)] for name, row in zip(names(rows), rows, strict=True)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _table(rows: Sequence[Row], columns: Mapping[str, Cell]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("operator", overflow="fold", min_width=16)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in zip(names(rows), rows, strict=True):
        table.add_row(name, *_cells(row, columns))
    return table


def _cells(row: Row, columns: Mapping[str, Cell]) -> list[str]:
    """The cells of a row; "none" where there is no gradient to speak of."""
    undefined = AGREEMENT | STRENGTH if row["gradient"] == "none" else {}
    return ["none" if name in undefined else cell(row) for name, cell in columns.items()]

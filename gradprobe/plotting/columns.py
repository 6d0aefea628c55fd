"""Formatting of rows of numbers as tables for the terminal and for documents."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

RANKED = "ranked:"  # before the name of a ranking, where an operator's name stands
Row = Mapping[str, Any]
Cell = Callable[[Row], str]


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed count of decimals, or an en dash if it is undefined.

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
    """Return a number of any size to three figures.

    Example:
        >>> short(1234.5), short(0.000123), short(5.25)
        ('1.23e+03', '0.000123', '5.25')
    """
    return f"{value:.3g}" if value is not None and math.isfinite(value) else number(value)


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return an estimate and its interval, with decimals that suit the width of the interval.

    Example:
        >>> interval(0.8571, 0.83, 0.8876), interval(0.0152, 0.0131, 0.0173), interval(28.41, 20.3, 39.9)
        ('0.857 [0.830, 0.888]', '0.015 [0.013, 0.017]', '28.4 [20.3, 39.9]')
    """
    if value is None or low is None or high is None or not math.isfinite(high - low):
        return number(value)
    digits = 1 if high - low >= 2 else 2 if high - low >= 0.2 else 3
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def figures(value: float | None, low: float | None, high: float | None) -> str:
    """Return a number of any size and its interval, to two figures each.

    Example:
        >>> figures(641.7, 446.1, 837.3), figures(7.31e-05, 1.4e-05, 0.000389), figures(0.021, None, None)
        ('640 [450, 840]', '7.3e-05 [1.4e-05, 0.00039]', '0.021')
    """
    if value is None or low is None or high is None:
        return _two(value)
    return f"{_two(value)} [{_two(low)}, {_two(high)}]"


def name_of(row: Row) -> str:
    """Return the name of the operator, or of what a ranking ranks by.

    Example:
        >>> name_of({"op": "lapsum+vpnoise"}), name_of({"op": "ranked:norm"})
        ('lapsum+vpnoise', 'by norm')
    """
    op = str(row["op"])
    if op.startswith(RANKED):
        return f"by {op.removeprefix(RANKED)}"
    return f"{op} ({row['denoiser']} denoiser)" if "denoiser" in row else op


def seeds(count: int) -> str:
    """Return a number of seeds in words.

    Example:
        >>> seeds(1), seeds(5)
        ('1 seed', '5 seeds')
    """
    return f"{count} seed" if count == 1 else f"{count} seeds"


def names(rows: Sequence[Row]) -> list[str]:
    """Return distinct names of rows: the operator, and the training steps where these differ."""
    several = len({row.get("steps") for row in rows}) > 1
    return [f"{row['op']} @{row['steps']}" if several else str(row["op"]) for row in rows]


def table(rows: Sequence[Row], columns: Mapping[str, Cell], caption: str = "", none: Collection[str] = ()) -> Table:
    """Return a table for the terminal, with one operator per row.

    Args:
        rows: Rows of a probe.
        columns: Function of a cell, by heading.
        caption: Text below the table.
        none: Headings under which an operator without a gradient has the word "none".
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.caption = caption or None
    table.add_column("operator", overflow="fold", min_width=16)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in zip(names(rows), rows, strict=True):
        table.add_row(name, *cells(row, columns, none))
    return table


def cells(row: Row, columns: Mapping[str, Cell], none: Collection[str] = ()) -> list[str]:
    """Return the texts of a row, with "none" under some headings if the operator has no gradient."""
    absent = none if row.get("gradient") == "none" else ()
    return ["none" if heading in absent else cell(row) for heading, cell in columns.items()]


@dataclass(frozen=True)
class View:
    """View of a probe that is told by its columns alone.

    Attributes:
        columns: heading -> cell.
        words: below the table.
        none: headings under which an operator without a gradient has the word "none".
    """

    columns: Mapping[str, Cell]
    words: str = ""
    none: tuple[str, ...] = ()

    def table(self, rows: Sequence[Row]) -> Table:
        """Return the table for the terminal."""
        return table(rows, self.columns, none=self.none)

    def lines(self, rows: Sequence[Row], baseline: str | None) -> list[str]:
        """Return no sentences."""
        return []

    def meaning(self, rows: Sequence[Row]) -> str:
        """Return the words below the table."""
        return self.words


def _two(value: float | None) -> str:
    return short(value) if value is None or not math.isfinite(value) else f"{float(f'{value:.2g}'):g}"

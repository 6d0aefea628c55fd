"""Rows of a table of selectors as text, for the terminal and for the figure (no torch)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from gradprobe.comparison.selector_costs import Spent
from gradprobe.comparison.selector_table import Line, Method, Point, SelectorTable
from gradprobe.comparison.selector_verdicts import neighbours
from gradprobe.plotting.broken import broken, least
from gradprobe.plotting.columns import number, seeds

QUOTED = "quoted"  # in the place of a kind: a row without a measurement of ours
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
APART = "of another average: not ranked"
_HEADINGS = {
    "rank": "", "name": "method", "paper": "paper, %", "ours": "ours, %", "average": "avg", "tokens": "tokens",
}  # fmt: skip
_SETTINGS: dict[str, Any] = {"padding": (0, 1, 0, 0), "title_justify": "left", "title_style": "bold"}
_WIDEST = {"name": 17, "tokens": 15}  # characters in the terminal, so that all columns fit into 100
_NAMED: tuple[str, ...] = ("rank", "name")  # columns that every table begins with
_ONCE = re.compile(r" x1(?=,|$)")


@dataclass(frozen=True)
class Cells:
    """Row of the table.

    Attributes:
        kind: Kind of the point, ``quoted`` without one.
        rank: Place in the order, with ``≈`` where the difference to the row above is not decided; empty: none.
        name: Name of the method, with letters of its notes.
        loc: Place of the pruning, as the paper has it.
        paper: The paper's average retention in percent, then that over the benchmarks that all its rows have.
        ours: Retention in percent with its interval, or the reason why there is none.
        average: Average tokens.
        tokens: Tokens of the layers.
        flops: FLOPs of the language model and of the selector.
    """

    kind: str
    rank: str
    name: str
    loc: str
    paper: str
    ours: str
    average: str = ""
    tokens: str = ""
    flops: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under one heading."""

    heading: str
    rows: tuple[Cells, ...]


@dataclass(frozen=True)
class Text:
    """All text of a table.

    Attributes:
        blocks: One for each average, then what has no rank.
        unit: Prefix of the FLOPs: T, G or M.
        notes: Lines below the table.
    """

    blocks: tuple[Block, ...]
    unit: str
    notes: tuple[str, ...]


def text_of(table: SelectorTable, spent: Sequence[Spent] | None, reason: str = "") -> Text:
    """Return the rows of a table as text.

    Args:
        table: Methods, measured and quoted.
        spent: FLOPs of the table's points, in their order; None: they are not known here.
        reason: Why they are not.
    """
    of_point = dict(zip(map(id, table.points), spent or [], strict=False))
    scale, unit = unit_of(spent or [])
    letters, notes = _letters(table)
    blocks = []
    for average in table.averages:
        lines = table.block(average)
        doubts = [gap.doubt for gap in neighbours(table.at(average), average)]
        ranks = [f"{'≈ ' if i and doubts[i - 1] else ''}{i + 1}" for i in range(len(doubts) + 1)]
        rows = [_cells(line, letters, ranks[i] if line.point else "", of_point, scale) for i, line in enumerate(lines)]
        if rows:
            blocks.append(Block(_heading(average, table), tuple(rows)))
    apart = [_cells(Line(p.method, p, None, None), letters, "", of_point, scale) for p in table.apart]
    if apart:
        blocks.append(Block(APART, tuple(apart)))
    return Text(tuple(blocks), unit, (*_explained(table, spent, reason), *notes))


def unit_of(spent: Sequence[Spent]) -> tuple[float, str]:
    """Return the scale and the prefix in which FLOPs are written."""
    most = max((each.language for each in spent), default=0)
    return next(((scale, unit) for scale, unit in UNITS if most >= scale), UNITS[-1])


@dataclass(frozen=True)
class Aligned:
    """Table for the terminal, a part for each average; names and tokens break so that its columns fit."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return iter(_parts(self.text, options.max_width))


def terminal_table(text: Text) -> Aligned:
    """Return the table for the terminal, a part for each average."""
    return Aligned(text)


def _parts(text: Text, room: int) -> list[Table]:
    """Return the tables of the terminal; columns without room come in tables of their own, with the names again."""
    rows = [row for block in text.blocks for row in block.rows]
    headings = _HEADINGS | {"flops": f"{text.unit}FLOPs"}
    words = {name: [heading, *(getattr(row, name) for row in rows)] for name, heading in headings.items()}
    widths = {name: max(map(len, each)) for name, each in words.items()}
    widths |= {name: min(widths[name], widest) for name, widest in _WIDEST.items()}
    for name in _WIDEST:  # until it fits, as far as names break
        widths[name] -= max(0, min(sum(widths.values()) + len(widths) - room, widths[name] - least(words[name])))
    groups, names = [_NAMED], [name for name in headings if name not in _NAMED]
    for name in names:
        together = (*groups[-1], name)
        if groups[-1] != _NAMED and sum(widths[each] + 1 for each in together) > room:
            groups.append((*_NAMED, name))
        else:
            groups[-1] = together
    return [part for group in groups for part in _tables(text, {n: headings[n] for n in group}, widths)]


def _tables(text: Text, headings: Mapping[str, str], widths: Mapping[str, int]) -> list[Table]:
    """Return a header and a table for each average, with columns of the same widths."""
    parts = [Table(box=None, **_SETTINGS)]
    parts += [Table(box=None, show_header=False, title=block.heading, **_SETTINGS) for block in text.blocks]
    for name, heading in headings.items():
        side: Literal["left", "right"] = "left" if name in _WIDEST else "right"
        for table in parts:
            table.add_column(heading, justify=side, width=widths[name], no_wrap=True)
    for table, block in zip(parts[1:], text.blocks, strict=True):
        for row in block.rows:
            cells = {name: getattr(row, name) for name in headings}
            cells |= {name: broken(cells[name], widths[name]) for name in _WIDEST if name in cells}
            table.add_row(*cells.values(), style="dim" if row.kind == QUOTED else None)
    return parts


def _cells(
    line: Line, letters: dict[str, str], rank: str, of_point: dict[int, Spent], scale: float
) -> Cells:  # fmt: skip
    method, point = line.method, line.point
    marks = "".join(letters[note] for note in _notes(method, line.paper is not None, point is not None))
    name = (method.name if point is None else point.name) + (f" {marks}" if marks else "")
    paper = number(None if line.paper is None else 100 * line.paper, 1) if line.paper is not None else ""
    if line.common is not None and letters.get("common"):
        paper += f" / {100 * line.common:.1f}"
    if point is None:
        return Cells(QUOTED, rank, name, method.loc, paper, line.reason)
    each = of_point.get(id(point))
    return Cells(
        point.kind, rank, name, method.loc, paper, _ours(point), number(point.average, 1).removesuffix(".0"),
        once(point.counts.text), "" if each is None else _flops(each, scale),
    )  # fmt: skip


def once(tokens: str) -> str:
    """Return the text of `gradprobe.selectors.schedule.Counts` without the number of layers where it is 1.

    Example:
        >>> once("100 x1, 11 x3"), once("576 x16, 9 x1")
        ('100, 11 x3', '576 x16, 9')
    """
    return _ONCE.sub("", tokens)


def _flops(each: Spent, scale: float) -> str:
    own = "?" if each.selector is None else _three(each.selector / scale)
    return f"{_three(each.language / scale)} + {own}"


def _three(value: float) -> str:
    """Return a number to three figures or so, without an exponent."""
    if value < 1:
        return "0" if value == 0 else f"{value:.2f}" if value >= 0.01 else "<0.01"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ours(point: Point) -> str:
    value, ends = point.row["retention"], point.interval
    span = "" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
    return number(None if value is None else 100 * value, 1) + span


def _heading(average: float, table: SelectorTable) -> str:
    share = table.share_of(average)
    heading = f"average of {average:g} of {table.tokens} tokens"
    if share is None:
        return heading
    return heading + (
        f" (paper: {share * table.of:.0f} of {table.of})" if table.of else f" (paper: {100 * share:.1f} %)"
    )


def _notes(method: Method, quoted: bool, measured: bool) -> list[str]:
    return [note for note, shown in ((method.contested, quoted), (method.note, measured)) if note and shown]


def _letters(table: SelectorTable) -> tuple[dict[str, str], list[str]]:
    """Return the letter of each note, and the notes behind their letters."""
    every = dict.fromkeys(note for method in table.methods for note in (method.contested, method.note) if note)
    letters = {note: chr(ord("a") + i) for i, note in enumerate(every)}
    contested = {method.contested for method in table.methods}
    lines = [
        f"{letter}: {'contested: ' if note in contested else ''}{note}" for note, letter in letters.items()
    ]  # fmt: skip
    return letters | ({"common": "common"} if table.benchmarks else {}), lines


def _explained(table: SelectorTable, spent: Sequence[Spent] | None, reason: str) -> list[str]:
    several = f"; behind the stroke over the {len(table.benchmarks)} benchmarks that all rows have"
    several *= bool(table.benchmarks)
    counts = sorted({len(p.results) for p in table.points})
    each = seeds(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds" if counts else "no seeds"
    lines = [
        f"paper: {table.source}, {table.model}, average retention in percent as printed{several}",
        f"ours: retention in percent [95 %], mean of the kinds of questions, {each}; trained scorers with fewer "
        "than five have no interval; of a method without training the seeds are test images",
        "ranks: at equal average tokens alone; ≈: the paired difference to the row above is not decided (the interval "
        "holds 0, or fewer than five seeds in common)",
    ]
    if spent is None:
        lines.append(f"FLOPs are not known here: {reason}")
    else:
        lines.append(
            "FLOPs: the language model up to the first token, each layer at its own number of tokens, + the selector"
        )
    return lines

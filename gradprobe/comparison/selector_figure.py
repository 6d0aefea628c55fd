"""Figure of a table of selectors: the table, and beside it retention over FLOPs."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradprobe.comparison.pareto import COLOURS, FONT, legend, pareto
from gradprobe.comparison.selector_costs import Spent
from gradprobe.comparison.selector_table import SelectorTable
from gradprobe.comparison.selector_text import QUOTED, Cells, Text, text_of
from gradprobe.errors import UsageError
from gradprobe.plotting.labels import text_size
from gradprobe.plotting.style import BLACK, GREY, PAGE, TALLEST, look

ROW, GAP, TOP, EDGE = 0.104, 0.06, 0.3, 0.06  # inches: a row at most, the room above a heading, the title, the margin
LEFT, RIGHT, PANEL = 4.36, 2.16, 4.3  # inches: width of the table and of the panel, height of the panel
LEGEND = 1.05  # inches: labels of the axis and legend, below the panel
NOTE, NARROW, WIDE = 0.09, 58, 112  # inches of a line of notes; characters below the panel, and below the table
COLUMNS = {  # inches from the left, and alignment
    "rank": (0.22, "right"),
    "name": (0.29, "left"),
    "paper": (1.66, "right"),
    "ours": (2.62, "right"),
    "average": (2.90, "right"),
    "tokens": (2.98, "left"),
    "flops": (LEFT, "right"),
}
TOKENS, REASON = 0.86, 1.76  # inches: room for the tokens of the layers, and where a reason begins
HEADINGS = {"paper": "paper, %", "ours": "ours, % [95 %]", "average": "avg", "tokens": "tokens of layers"}


def selector_figure(
    table: SelectorTable, spent: Sequence[Spent] | None, title: str, claim: str, reason: str = ""
) -> Figure:
    """Draw a table of methods at each average, with the paper's numbers, and the Pareto front of all points.

    Args:
        table: Methods, measured and quoted.
        spent: FLOPs of the table's points, in their order; None: average tokens stand in their place.
        title: Above the table.
        claim: The paper's claim, for the notes.
        reason: Why FLOPs are not known.

    Raises:
        UsageError: Nothing was measured.
    """
    if not table.points:
        raise UsageError("no table of selectors to draw; give at least one result")
    text = text_of(table, spent, reason)
    notes = [*text.notes, f"Paper: {claim}"]
    beside, below = _wrapped(notes, NARROW), _wrapped(notes, WIDE)
    rows = 1 + sum(1 + len(block.rows) for block in text.blocks)
    apart = GAP * len(text.blocks) + 0.1
    row = min(ROW, (TALLEST - TOP - EDGE - apart) / rows)
    tall, panel = row * rows + apart, PANEL + LEGEND
    fits = tall >= panel + NOTE * len(beside)  # the room below the panel is there anyway
    height = TOP + EDGE + (tall if fits else max(tall + NOTE * len(below) + 0.1, panel))
    with look():
        figure = Figure(figsize=(PAGE, height))
        figure.set_layout_engine("none")  # names in the panel are placed in inches
        figure.text(0.012, 1 - 0.13 / height, title, fontsize=8.5, fontweight="bold", va="center")
        _table(figure.add_axes((0.08 / PAGE, 0, LEFT / PAGE, 1 - TOP / height)), text, height - TOP, row)
        left, bottom = (PAGE - RIGHT - 0.06) / PAGE, 1 - (TOP + 0.1 + PANEL) / height
        axes = figure.add_axes((left, bottom, RIGHT / PAGE, PANEL / height))
        axes.tick_params(labelsize=6)
        axes.xaxis.label.set_fontsize(6.5)
        pareto(axes, table.points, spent)
        axes.legend(
            handles=legend(table.points), loc="upper left", bbox_to_anchor=(-0.02, -0.4 / PANEL), fontsize=FONT + 0.4,
            ncols=1, labelspacing=0.25, borderaxespad=0, handletextpad=0.4,
        )  # fmt: skip
        x, y = (left - 0.14 / PAGE, bottom + (0.05 - LEGEND) / height)
        if not fits:
            x, y = 0.08 / PAGE, 1 - (TOP + tall) / height
        lines = "\n".join(beside if fits else below)
        figure.text(x, y, lines, fontsize=5, va="top", linespacing=1.3, color="#333333")
    return figure


def _table(axes: Axes, text: Text, height: float, each: float) -> None:
    """Write the rows, of ``each`` inches, from the top."""
    axes.set_axis_off()
    axes.set_xlim(0, LEFT)
    axes.set_ylim(height, 0)
    y = each / 2
    for name, heading in (HEADINGS | {"flops": f"{text.unit}FLOPs"}).items():
        _write(axes, name, y, heading, GREY)
    for block in text.blocks:
        y += each + GAP
        axes.plot([0, LEFT], [y - each / 2 - GAP / 2] * 2, color=GREY, linewidth=0.4)
        _write(axes, "rank", y, block.heading, BLACK, bold=True)
        for row in block.rows:
            y += each
            _row(axes, y, row)


def _row(axes: Axes, y: float, row: Cells) -> None:
    paint = COLOURS.get(row.kind, GREY)
    _write(axes, "rank", y, row.rank, BLACK)
    _write(axes, "name", y, row.name, paint)
    _write(axes, "paper", y, row.paper, GREY if row.kind == QUOTED else BLACK)
    if row.kind == QUOTED:
        axes.text(REASON, y, row.ours, fontsize=FONT, color=GREY, va="center_baseline")
        return
    for name in ("ours", "average", "tokens", "flops"):
        _write(axes, name, y, getattr(row, name), BLACK)


def _write(axes: Axes, column: str, y: float, words: str, colour: str, bold: bool = False) -> None:
    x, side = (0.0, "left") if bold else COLUMNS[column]
    size = FONT
    if column == "tokens" and words:
        size *= min(1.0, 72 * TOKENS / text_size(words, FONT)[0])  # many stages
    axes.text(
        x, y, words, fontsize=size, color=colour, ha=side, va="center_baseline",  # type: ignore[arg-type]
        fontweight="bold" if bold else "normal",
    )  # fmt: skip


def _wrapped(notes: Sequence[str], width: int) -> list[str]:
    whole = [note.replace(" %", "\u00a0%") for note in notes]  # no line begins with a percent sign
    return [line for note in whole for line in textwrap.wrap(note, width, subsequent_indent="   ")]

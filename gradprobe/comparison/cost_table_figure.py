"""Table 4 for the terminal and as a figure: FLOPs counted here beside the paper's FLOPs and latencies."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.comparison.cost_table import LATENCIES, MEASURE, CostRow
from gradprobe.comparison.selector_text import once
from gradprobe.plotting.columns import number
from gradprobe.plotting.labels import text_size
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, look

FONT, ROW, TOP = 5.6, 0.145, 0.32  # size of the text; inches of a row and of the title
LEFT, RIGHT = 5.16, 1.5  # inches: table and bars
WIDTH = 165  # characters of a note
COLUMNS = {  # inches from the left, and alignment
    "method": (0.0, "left"), "loc": (1.0, "left"), "tokens": (1.34, "left"), "average": (2.68, "right"),
    "paper": (2.99, "right"), "same": (3.27, "right"), "language": (3.54, "right"), "selector": (3.96, "right"),
    "encoder": (4.24, "right"), "pruner": (4.54, "right"), "prefill": (4.86, "right"), "ttft": (5.16, "right"),
}  # fmt: skip
HEADINGS = {
    "loc": "loc.", "tokens": "tokens of layers", "average": "avg", "paper": "paper", "same": "same", "language": "LM",
    "selector": "selector", "encoder": "enc.", "pruner": "pruner", "prefill": "prefill", "ttft": "TTFT",
}  # fmt: skip
ROOM = {"tokens": 1.08, "method": 0.95}  # inches; longer texts are written smaller
STACK = {"vision tower, projector": GREY, "language model": BLUE, "selector": ORANGE}
NOTES = (
    "TFLOPs: paper: as printed; same: ours by the paper's count, linear layers and lm_head on every position; LM: the "
    "language model up to the first token, each layer at its own number of tokens, with attention; selector: its own",
    "ms: the paper's, FP16 on one A6000, batch 1. Ours wait for a GPU: " + MEASURE,
    "tokens of layers: visual tokens that the layers read, layers with equal numbers together",
)


def cells(row: CostRow) -> dict[str, str]:
    """Return the texts of a row by column."""
    latencies = {name: number(row.paper.get(name)) for name in LATENCIES}
    return {
        "method": row.method, "loc": row.loc or "–", "tokens": once(row.counts.text),
        "average": number(row.counts.average, 1).removesuffix(".0"), "paper": number(row.paper.get("flops")),
        "same": number(row.as_paper / 1e12), "language": number(row.language / 1e12),
        "selector": "?" if row.selector is None else _small(row.selector / 1e12), **latencies,
    }  # fmt: skip


def terminal_table(rows: Sequence[CostRow]) -> Group:
    """Return the tables for the terminal, FLOPs above latencies, in 80 columns.

    Args:
        rows: As `gradprobe.comparison.cost_table.cost_rows` returns them.
    """
    flops = _terminal(rows, ("tokens", "average", "paper", "same", "language", "selector"))
    flops.caption = "\n".join((NOTES[0], NOTES[2]))
    times = _terminal([row for row in rows if "ttft" in row.paper], ("loc", *LATENCIES))
    times.caption = NOTES[1]
    return Group(flops, times)


def _terminal(rows: Sequence[CostRow], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("method", overflow="fold", min_width=11)
    for name in columns:
        left = name in ("loc", "tokens")
        table.add_column(HEADINGS[name], justify="left" if left else "right", no_wrap=name != "tokens")
    for row in rows:
        table.add_row(row.method, *(cells(row)[name] for name in columns))
    return table


def cost_table_figure(rows: Sequence[CostRow], title: str, claim: str) -> Figure:
    """Draw the table, and beside it bars of all FLOPs up to the first token, with the paper's as marks.

    Args:
        rows: As `gradprobe.comparison.cost_table.cost_rows` returns them.
        title: Above the table.
        claim: The paper's claim, for the notes.
    """
    notes = [line for note in (*NOTES, f"Paper: {claim}") for line in _wrapped(note)]
    tall = ROW * (len(rows) + 2)
    height = TOP + tall + 0.62 + 0.095 * len(notes) + 0.08
    with look():
        figure = Figure(figsize=(PAGE, height))
        figure.set_layout_engine("none")
        figure.text(0.012, 1 - 0.13 / height, title, fontsize=8.5, fontweight="bold", va="center")
        bottom = 1 - (TOP + tall) / height
        table = figure.add_axes((0.08 / PAGE, bottom, LEFT / PAGE, tall / height))
        bars = figure.add_axes(((PAGE - RIGHT - 0.1) / PAGE, bottom, RIGHT / PAGE, tall / height))
        _table(table, rows, tall)
        _bars(bars, rows, tall)
        handles, names = bars.get_legend_handles_labels()
        bars.legend(
            handles, names, loc="upper right", bbox_to_anchor=(1.02, -0.31 / tall), fontsize=FONT, ncols=2,
            borderaxespad=0, handlelength=1.2, columnspacing=1.0,
        )  # fmt: skip
        figure.text(0.08 / PAGE, (0.095 * len(notes) + 0.05) / height, "\n".join(notes), fontsize=5.2, va="top",
                    linespacing=1.3, color="#333333")  # fmt: skip
    return figure


def _table(axes: Axes, rows: Sequence[CostRow], tall: float) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, LEFT)
    axes.set_ylim(tall, 0)
    for name, words in (("same", "TFLOPs"), ("prefill", "ms (paper)")):
        _write(axes, name, 0.3 * ROW, words, GREY)
    for name, words in HEADINGS.items():
        _write(axes, name, 1.1 * ROW, words, GREY)
    axes.plot([0, LEFT], [1.65 * ROW] * 2, color=GREY, linewidth=0.4)
    for i, row in enumerate(rows):
        for name, words in cells(row).items():
            colour = GREEN if name == "method" and row.counts.inside else BLACK
            _write(axes, name, (i + 2.3) * ROW, words, colour)


def _bars(axes: Axes, rows: Sequence[CostRow], tall: float) -> None:
    places = [(i + 2.3) * ROW for i in range(len(rows))]
    left = [0.0] * len(rows)
    parts = ([row.around for row in rows], [row.language for row in rows], [row.selector or 0 for row in rows])
    for (name, colour), each in zip(STACK.items(), parts, strict=True):
        wide = [value / 1e12 for value in each]
        axes.barh(places, wide, 0.62 * ROW, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, wide, strict=True)]
    for place, end in zip(places, left, strict=True):
        axes.annotate(
            f"{end:.2f}", (end, place), (3, 0), textcoords="offset points", va="center", fontsize=FONT, color=GREY
        )
    marks = [(row.paper["flops"], place) for row, place in zip(rows, places, strict=True) if "flops" in row.paper]
    if marks:
        xs, ys = zip(*marks, strict=True)
        axes.plot(xs, ys, "|", color=BLACK, ms=7, mew=1.1, label="paper's count")
    axes.set_xlim(0, 1.14 * max(left))
    axes.set_ylim(tall, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", labelsize=6)
    axes.set_xlabel("TFLOPs up to the first token", fontsize=6.5, labelpad=1)
    axes.grid(axis="x")


def _write(axes: Axes, column: str, y: float, words: str, colour: str) -> None:
    x, side = COLUMNS[column]
    size = FONT
    if column in ROOM and words:
        size *= min(1.0, 72 * ROOM[column] / text_size(words, FONT)[0])
    axes.text(x, y, words, fontsize=size, color=colour, ha=side, va="center_baseline")  # type: ignore[arg-type]


def _small(value: float) -> str:
    """Return FLOPs with as many decimals as tell them from nothing."""
    return number(value) if value >= 0.1 else "0" if value == 0 else f"{value:.3f}" if value >= 0.001 else "<0.001"


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note.replace(" %", "\u00a0%"), WIDTH, subsequent_indent="   ")

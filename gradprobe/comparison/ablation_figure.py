"""The ablation as a table for the terminal and as a figure: ours with intervals, the paper's beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich import box
from rich.table import Table
from rich.text import Text

from gradprobe.comparison.ablation import Cell, Variant
from gradprobe.plotting.style import BLACK, BLUE, GREY, ORANGE, PAGE, look

TRAINED, FLOOR, CLAIMED = BLUE, GREY, ORANGE


def ablation_table(rows: Sequence[Variant], n_tokens: int) -> Table:
    """Return a table, a row a variant and a column a budget: retention in percent with its interval, then the paper's.

    Args:
        rows: as `gradprobe.comparison.ablation.variants` returns them.
        n_tokens: N.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("variant", overflow="fold", min_width=16)
    budgets = budgets_of(rows)
    for k in budgets:
        table.add_column(
            _two_lines(f"K = {k} of {n_tokens}", f"paper {paper_budget(k, n_tokens)}"), justify="right", no_wrap=True
        )
    for variant in rows:
        table.add_row(variant.name, *(_text(variant.cells.get(k)) for k in budgets))
    table.caption = (
        "average retention over the four kinds of questions in percent, with five seeds or more [95 % over seeds], "
        "else each seed below it; then the paper's, on LLaVA-1.5-7B with four benchmarks"
    )
    return table


def ablation_figure(rows: Sequence[Variant], n_tokens: int, title: str) -> Figure:
    """Draw a panel a budget: each variant's retention, seeds as dots, and the paper's on its own model as diamonds.

    Args:
        rows: as `gradprobe.comparison.ablation.variants` returns them.
        n_tokens: N.
        title: name of the model and its data.
    """
    budgets = budgets_of(rows)
    with look():
        figure = Figure(figsize=(PAGE, 0.95 + 0.27 * len(rows)))
        panels = np.atleast_1d(np.asarray(figure.subplots(1, len(budgets), sharey=True)))
        shown = [100 * x for v in rows for c in v.cells.values() for x in (*c.row["by_seed"], c.paper) if x is not None]
        for axes, k in zip(panels, budgets, strict=True):
            for y, variant in enumerate(rows):
                cell = variant.cells.get(k)
                if cell is not None:
                    _mark(axes, y, cell, FLOOR if variant.op.startswith("ranked:") else TRAINED)
            axes.set_title(f"K = {k} of {n_tokens}")
            axes.set_xlabel("retention, %")
            axes.grid(axis="x")
            axes.axvline(100, color=BLACK, linewidth=0.6)
            axes.set_xlim(min(shown) - 6, max(shown) + 4)  # every seed; a wide interval may leave the panel
        panels[0].set_yticks(range(len(rows)), [variant.name for variant in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = {
            text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        handles |= _small_marks([cell for variant in rows for cell in variant.cells.values()])
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _small_marks(cells: Sequence[Cell]) -> dict[str, Line2D]:
    """Return the key of seeds and intervals, where some are drawn."""
    marks = {}
    if any(len(cell.row["by_seed"]) > 1 for cell in cells):
        marks["a seed"] = Line2D([], [], color=GREY, marker=".", ms=3, alpha=0.55, linestyle="")
    if any(cell.row["low"] is not None and cell.row["high"] is not None for cell in cells):
        marks["95 % interval, cut at the edge"] = Line2D([], [], color=GREY, linewidth=1.2)
    return marks


def budgets_of(rows: Sequence[Variant]) -> list[int]:
    """Return every K, the largest first."""
    return sorted({k for variant in rows for k in variant.cells}, reverse=True)


def paper_budget(k: int, n_tokens: int) -> str:
    """Return the paper's budget of about the same share, of its 576 tokens.

    Example:
        >>> paper_budget(33, 100), paper_budget(11, 100)
        ('192', '64')
    """
    return str(min((64, 128, 192), key=lambda other: abs(other / 576 - k / n_tokens)))


def _mark(axes: Any, y: int, cell: Cell, colour: str) -> None:
    row: Mapping[str, Any] = cell.row
    seeds = [100 * x for x in row["by_seed"] if x is not None]
    axes.plot(seeds, np.full(len(seeds), y), ".", color=colour, ms=3, alpha=0.55)
    if row["low"] is not None and row["high"] is not None:
        axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=1.2)
    name = "mean of seeds" if colour == TRAINED else "no training"
    axes.plot([100 * row["retention"]], [y], "o", color=colour, ms=4.5, mec="white", mew=0.5, label=name)
    if cell.paper is not None:
        axes.plot([100 * cell.paper], [y], "D", mfc="none", mec=CLAIMED, ms=4.5, mew=1.1, label="paper, LLaVA-1.5-7B")


def _two_lines(first: str, second: str) -> Text:
    """Return a line and a dim one below it; the second may be empty."""
    return Text.assemble(first, (f"\n{second}" if second else "", "dim"))


def _text(cell: Cell | None) -> str | Text:
    if cell is None:
        return "–"
    row = cell.row
    low, high = row["low"], row["high"]
    span = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    if not span and len(row["by_seed"]) > 1:
        span = "\n" + " ".join("–" if x is None else f"{100 * x:.1f}" for x in row["by_seed"])
    paper = "" if cell.paper is None else f"{100 * cell.paper:.1f}"
    return _two_lines(f"{100 * row['retention']:.1f}{span}", paper)

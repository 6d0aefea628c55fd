"""Figures of a comparison: each probe's own as SVG for a page, and the leaderboard of all operators."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from gradprobe.comparison.comparison import Comparison, answers_of, compared, probe_rows, rows
from gradprobe.comparison.tables import measured
from gradprobe.comparison.verdict import standing
from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row, name_of
from gradprobe.plotting.style import BLACK, BLUE, GREY, PAGE, VERMILION, look, save_figure
from gradprobe.probes.metrics import NO_GRADIENT, Metric
from gradprobe.statistics.ranks import ROUNDED

NAMES, LINE, ENDS = 1.75, 0.175, 1.35  # inches: operators' names, a row, headings and legend
BEYOND = 0.3  # how far an axis goes beyond its dots for the sake of intervals, as a share of their range
LOG = 30  # largest over smallest dot from which on a ratio's axis is logarithmic


def figures_of(comparison: Comparison) -> dict[str, str]:
    """Return the figure of each probe as the text of an SVG whose names occur in no other figure's.

    Args:
        comparison: the operators; a probe without results has no figure.
    """
    drawn = {}
    for probe, place in compared().items():
        if hasattr(place, "figure") and any(answers_of(comparison, probe, op) for op in comparison.ops):
            probed = [row for _, row in probe_rows(comparison, probe)]
            drawn[probe] = svg_of(place.figure(_results(comparison, probe), probed), probe)
    return drawn


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as SVG for the inside of a page: no header, its own names, no rule that reaches beyond it.

    Its greys are variables, ``--n33`` for #333333, which a page may set for a dark background; without them, and in
    other colours, it is as it was drawn.

    Args:
        figure: a figure.
        name: what its names begin with.
    """
    with TemporaryDirectory() as folder:
        text = save_figure(figure, Path(folder) / "figure.svg").read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(?<=\sid=")(?=[^"]+")', f"{name}-", text)
    text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    text = re.sub(r"(?<=: )(#([0-9a-f]{2})\2\2)(?=[;\"])", r"var(--n\2, \1)", text)
    # Verdana is as wide as DejaVu Sans, which few machines have
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return text.replace("<svg", '<svg style="stroke-linejoin: round; stroke-linecap: butt"', 1).strip()


def leaderboard(comparisons: Sequence[Comparison]) -> Figure:
    """Every operator a row, best retention on top, every metric a column: dots with their 95 % intervals.

    A dashed line goes through the focus. Blue and vermilion dots are decided to be better or worse than it, hollow ones
    are undecided; ticks are the seeds that a dot is the mean of. Rankings that need no training stand below a line.

    Args:
        comparisons: one a panel, of the same focus.

    Raises:
        UsageError: nothing was measured.
    """
    tables = [sorted(rows(comparison), key=_rank) for comparison in comparisons]
    if not tables or not all(measured(table) for table in tables):
        raise UsageError("no leaderboard to draw; give at least one result")
    heights = [LINE * len(table) + ENDS for table in tables]
    with look():
        figure = Figure(figsize=(PAGE, sum(heights)))
        panels = figure.subfigures(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0]
        for panel, comparison, table in zip(panels, comparisons, tables, strict=True):
            metrics = measured(table)
            grid = panel.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
            for axes, metric in zip(grid, metrics, strict=True):
                _column(axes, metric, table)
            grid[0].set_yticks(np.arange(len(table)), [name_of(row) for row in table], fontsize=6)
            grid[0].set_ylim(len(table) - 0.4, -0.6)
            for label, row in zip(grid[0].get_yticklabels(), table, strict=True):
                label.set(fontweight="bold" if row["focus"] else "normal", color=GREY if row["floor"] else BLACK)
            panel.suptitle(comparison.title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        told = (
            f"dashed, black: {comparisons[0].focus}; blue: decided better than it, orange: worse, hollow: undecided or "
            "fewer than\n5 seeds; ticks: each seed; black gaps: decided against hard top-K; 95 %, not corrected for "
            "their number;\nintervals at an edge go on"
        )
        panels[-1].supxlabel(told, x=0.01, ha="left", fontsize=6.5, color=GREY)
        figure.get_layout_engine().set(w_pad=0.02, wspace=0.02)  # type: ignore[union-attr, call-arg]
    return figure


def _rank(row: Row) -> tuple[bool, bool, float]:
    kept = row["metrics"]["retention"]["value"]
    return row["floor"], kept is None, -round(kept or 0.0, ROUNDED)


def _column(axes: Axes, metric: Metric, table: Sequence[Row]) -> None:
    """Dots and intervals of one metric; absent ones are written."""
    cells = [(y, row, row["metrics"][metric.name]) for y, row in enumerate(table) if metric.name in row["metrics"]]
    shown = [(y, row, cell) for y, row, cell in cells if cell["value"] is not None]
    values = [cell["value"] for _, _, cell in shown]
    logarithmic = metric.ratio and min(values, default=0) > 0 and max(values) > LOG * min(values)
    if logarithmic:
        axes.set_xscale("log")
    for y, row, cell in shown:
        colour, face = _paint(metric, cell, row["focus"])
        ends = [cell["value"] if cell[end] is None else cell[end] for end in ("low", "high")]
        axes.plot(ends, [y, y], color=colour, lw=0.8, zorder=1)
        axes.plot(several := _several(cell), [y] * len(several), "|", ms=4, color=colour, mew=0.5, zorder=1)
        axes.plot(cell["value"], y, "o", ms=3, color=colour, mfc=face, mew=0.8, zorder=2)
        if row["focus"]:
            axes.axvline(cell["value"], color=GREY, lw=0.6, ls=(0, (3, 2)), zorder=0)
    for y, _, cell in cells:
        if cell["value"] is None:
            told = "none" if cell["reason"] == NO_GRADIENT else "–"
            axes.text(
                0.5, y, told, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=5.5, color=GREY
            )
    floors = [y for y, row in enumerate(table) if row["floor"]]
    if floors:
        axes.axhline(floors[0] - 0.5, color=GREY, lw=0.5)
    if values:
        axes.set_xlim(*_limits(np.array(values), [c for _, _, c in shown], logarithmic))
    axes.set_title(metric.heading, fontsize=6.5)
    axes.tick_params(axis="x", labelsize=5.5, pad=1.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(numticks=3) if logarithmic else MaxNLocator(2, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", lw=0.3)
    axes.spines["left"].set_visible(False)


def _several(cell: Row) -> list[float]:
    """Return the values of several seeds that a value is the mean of; none for one."""
    each = [value for value in cell.get("by_seed") or () if value is not None]
    return each if len(each) > 1 else []


def _paint(metric: Metric, cell: Row, focus: bool) -> tuple[str, str]:
    """Colour of a dot and of its inside."""
    if focus or cell["verdict"] in ("different", "small gap", "equivalent"):
        return BLACK, BLACK
    colour = {"better": BLUE, "worse": VERMILION}.get(standing(metric, cell) or "")
    return (colour, colour) if colour else (GREY, "white")


def _limits(values: np.ndarray, cells: Sequence[Row], logarithmic: bool) -> tuple[float, float]:
    """Return the ends of an axis that shows all dots and seeds, and intervals as far as they do not dwarf them."""
    lows, highs = (
        np.array([v if c[end] is None else c[end] for v, c in zip(values, cells, strict=True)], float)
        for end in ("low", "high")
    )
    values = np.array([*values, *(each for cell in cells for each in _several(cell))])
    if logarithmic:
        values, lows, highs = (np.log(np.maximum(ends, 1e-300)) for ends in (values, lows, highs))
    span = float(np.ptp(values)) or float(np.max(highs - lows)) or abs(float(values[0])) or 1.0
    low = max(float(min(lows.min(), values.min())), float(values.min()) - BEYOND * span) - 0.05 * span
    high = min(float(max(highs.max(), values.max())), float(values.max()) + BEYOND * span) + 0.05 * span
    return (float(np.exp(low)), float(np.exp(high))) if logarithmic else (low, high)


def _results(comparison: Comparison, probe: str) -> list[Any]:
    """Return the results of the operators compared, in their order, then those of all others."""
    named = [result for op in comparison.ops for result in answers_of(comparison, probe, op)]
    return [*named, *(result for result in comparison.results[probe] if not any(result is each for each in named))]

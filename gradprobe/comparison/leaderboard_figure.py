"""Figure of the leaderboard: every operator a row and every measure a column, a panel for each model, in pages."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from gradprobe.comparison.comparison import Comparison, rows
from gradprobe.comparison.tables import measured
from gradprobe.comparison.verdict import ARROWS, standing
from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row, name_of
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.labels import text_size
from gradprobe.plotting.style import BLACK, BLUE, GREY, PAGE, TALLEST, VERMILION, look
from gradprobe.probes.metrics import NO_GRADIENT, Metric
from gradprobe.statistics.ranks import ROUNDED

LINE, HEAD, FOOT = 0.128, 0.5, 0.27  # inches: a row, the words above the rows, the numbers below them
KEY, EDGE, GAP = 0.5, 0.06, 0.17  # inches: the key, the margin, and what is between two columns
NAME, LARGEST = 5.8, 6.3  # points: of operators, and of headings where there is room
FEW = 3  # measures of a panel that takes half the width
BEYOND = 0.3  # how far an axis goes beyond its dots for the sake of intervals, as a share of their range
LOG = 30  # largest over smallest dot from which on a ratio's axis is logarithmic
UNITS = {
    "coherence": "cosine",
    "centred": "cosine",
    "roughness": "loss per step",
    "fidelity": "cosine",
    "descent": "loss per step size",
    "equivalence": "top-1 accuracy",
    "retention": "share kept",
    "cost": "forward passes",
}
Place = tuple[float, float, float]  # inches: left, top (from the top of the figure) and width


def leaderboard(comparisons: Sequence[Comparison]) -> Figure:
    """Every operator a row, best retention on top, every metric a column: dots with their 95 % intervals.

    A dashed line goes through the focus. Blue and vermilion dots are decided to be better or worse than it, hollow ones
    are undecided; ticks are the seeds that a dot is the mean of. Rankings that need no training stand below a line.
    Panels with few measures stand beside each other.

    Args:
        comparisons: one a panel, of the same focus.

    Raises:
        UsageError: nothing was measured.
    """
    tables = [sorted(rows(comparison), key=_rank) for comparison in comparisons]
    if not tables or not all(measured(table) for table in tables):
        raise UsageError("no leaderboard to draw; give at least one result")
    places, height = _arranged([_size(table) for table in tables])
    with look():
        figure = Figure(figsize=(PAGE, height + KEY))
        figure.set_layout_engine("none")  # all places are known
        for place, comparison, table in zip(places, comparisons, tables, strict=True):
            _panel(figure, place, comparison.title, table)
        _key(figure, comparisons[0].focus, tables)
    return figure


def leaderboard_pages(comparisons: Sequence[Comparison]) -> list[Figure]:
    """Draw `leaderboard` on as many pages as its panels need, in their order; none is taller than ``TALLEST``.

    Args:
        comparisons: one a panel, of the same focus. A panel that is taller than a page has one of its own.

    Raises:
        UsageError: nothing was measured.
    """
    pages: list[list[Comparison]] = [[]]
    for comparison in comparisons:
        if pages[-1] and _arranged([_size(rows(each)) for each in [*pages[-1], comparison]])[1] + KEY > TALLEST:
            pages.append([])
        pages[-1].append(comparison)
    return [leaderboard(page) for page in pages]


def _size(table: Sequence[Row]) -> tuple[int, float]:
    """Return the measures of a panel and its height in inches."""
    return len(measured(table)), HEAD + LINE * len(table) + FOOT


def _arranged(sizes: Sequence[tuple[int, float]]) -> tuple[list[Place], float]:
    """Return the places of panels of so many measures and inches, and the height of all of them.

    Those of many measures come first and take the whole width; the others stand in two columns, each in the shorter.
    """
    narrow = [i for i, (count, _) in enumerate(sizes) if count <= FEW]
    if len(narrow) < 2:
        narrow = []
    places: dict[int, Place] = {}
    top, full = 0.0, PAGE - 2 * EDGE
    for i, (_, height) in enumerate(sizes):
        if i not in narrow:
            places[i] = (EDGE, top, full)
            top += height
    half, ends = (full - GAP) / 2, [top, top]
    for i in narrow:
        column = int(ends[1] < ends[0])
        places[i] = (EDGE + column * (half + GAP), ends[column], half)
        ends[column] += sizes[i][1]
    return [places[i] for i in range(len(sizes))], max(ends)


def _panel(figure: Figure, place: Place, title: str, table: Sequence[Row]) -> None:
    """Draw the columns of a model below its title."""
    left, top, width = place
    total = figure.get_figheight()
    figure.text(left / PAGE, 1 - (top + 0.06) / total, title, va="top", fontsize=8, fontweight="bold")
    metrics, names = measured(table), [name_of(row) for row in table]
    first = left + max(text_size(name, NAME, bold=True)[0] for name in names) / 72 + 0.06
    each = (left + width - first + GAP) / len(metrics)
    bottom = 1 - (top + HEAD + LINE * len(table)) / total
    heading = min(_fitting(_heading(metric), each) for metric in metrics)
    for i, metric in enumerate(metrics):
        box = ((first + i * each) / PAGE, bottom, (each - GAP) / PAGE, LINE * len(table) / total)
        axes = figure.add_axes(box)
        _column(axes, metric, table, heading)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_yticks(np.arange(len(table)), names if i == 0 else [""] * len(names), fontsize=NAME)
        if i == 0:
            for label, row in zip(axes.get_yticklabels(), table, strict=True):
                label.set(fontweight="bold" if row["focus"] else "normal", color=GREY if row["floor"] else BLACK)


def _heading(metric: Metric) -> str:
    return f"{metric.heading}{ARROWS[metric.better]}"


def _fitting(text: str, inches: float) -> float:
    """Return the size in points of a heading in a column that wide."""
    return min(LARGEST, LARGEST * (inches - 0.04) * 72 / text_size(text, LARGEST, bold=True)[0])


def _rank(row: Row) -> tuple[bool, bool, float]:
    kept = row["metrics"]["retention"]["value"]
    return row["floor"], kept is None, -round(kept or 0.0, ROUNDED)


def _column(axes: Axes, metric: Metric, table: Sequence[Row], heading: float) -> None:
    """Draw dots and intervals of one metric below a heading of that many points; absent values are written."""
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
        axes.plot(cell["value"], y, "o", ms=2.6, color=colour, mfc=face, mew=0.7, zorder=2)
        if row["focus"]:
            axes.axvline(cell["value"], color=GREY, lw=0.6, ls=(0, (3, 2)), zorder=0)
    for y, _, cell in cells:
        if cell["value"] is None:
            told = "none" if cell["reason"] == NO_GRADIENT else "–"
            axes.text(
                0.5, y, told, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=5, color=GREY
            )
    floors = [y for y, row in enumerate(table) if row["floor"]]
    if floors:
        axes.axhline(floors[0] - 0.5, color=GREY, lw=0.5)
    if values:
        axes.set_xlim(*_limits(np.array(values), [c for _, _, c in shown], logarithmic))
    axes.set_title(_heading(metric), fontsize=heading, pad=9)
    unit: dict[str, Any] = {"fontsize": 5, "color": GREY}
    axes.annotate(UNITS.get(metric.name, ""), (0, 1), (0, 2.5), "axes fraction", "offset points", **unit)
    axes.tick_params(axis="x", labelsize=5.5, pad=1.5, length=2)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(numticks=2) if logarithmic else MaxNLocator(2, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", lw=0.3)
    axes.spines["left"].set_visible(False)


def _key(figure: Figure, focus: str, tables: Sequence[Sequence[Row]]) -> None:
    """Say below all panels what marks, colours and words mean, of those that there are."""
    dot: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3}
    handles = [
        Line2D([], [], color=BLACK, label=legend_label(f"{focus}, dashed: with which all are compared"), **dot),
        Line2D([], [], color=BLUE, label="decided better", **dot),
        Line2D([], [], color=VERMILION, label="decided worse", **dot),
        Line2D([], [], color=GREY, mfc="white", mew=0.7, label="undecided, or fewer than 5 seeds", **dot),
        Line2D([], [], color=GREY, ls="", marker="|", ms=4, label="a seed"),
    ]
    words = ["↑ higher is better, ↓ lower; bars: 95 % intervals, not corrected for their number, cut at an edge"]
    shown = [(row, row["metrics"][metric.name]) for table in tables for metric in measured(table) for row in table
             if metric.name in row["metrics"]]  # fmt: skip
    gaps = any(metric.name == "equivalence" for table in tables for metric in measured(table))
    reasons = {cell["reason"] == NO_GRADIENT for _, cell in shown if cell["value"] is None}
    words += ["black gaps to hard: decided against hard top-K itself"] if gaps else []
    words += ["–: not measured or undefined"] if False in reasons else []
    words += ["none: no gradient"] if True in reasons else []
    words += ["grey names: rankings without training"] if any(row["floor"] for row, _ in shown) else []
    total = figure.get_figheight()
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (EDGE / PAGE, (KEY - 0.06) / total)}
    figure.legend(
        handles=handles, ncols=len(handles), fontsize=6, handletextpad=0.2, columnspacing=1.0, borderpad=0,
        borderaxespad=0, **place,
    )  # fmt: skip
    text = "\n".join(textwrap.wrap("; ".join(words), 165))
    figure.text(EDGE / PAGE, (KEY - 0.24) / total, text, va="top", fontsize=6, color=GREY)


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

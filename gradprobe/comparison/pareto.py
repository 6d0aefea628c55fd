"""Pareto front of a table of selectors: retention over FLOPs, or over average tokens where FLOPs are not known."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from gradprobe.comparison.selector_costs import Spent
from gradprobe.comparison.selector_table import INSIDE, OUTSIDE, TRAINED, Point
from gradprobe.comparison.selector_text import unit_of
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.labels import Box, ends, placed, text_size
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, VERMILION

COLOURS = {TRAINED: BLUE, OUTSIDE: VERMILION, INSIDE: GREEN}
MARKS = {TRAINED: "o", OUTSIDE: "s", INSIDE: "^"}
WORDS = {
    TRAINED: "trained scorer", OUTSIDE: "outside the language model", INSIDE: "inside the language model",
}  # fmt: skip
FONT = 5.6


def frontier(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the numbers of the points that no cheaper one reaches, the cheapest first.

    Args:
        costs: Cost of each point.
        values: Value of each point; NaN for one that does not count.

    Example:
        >>> frontier([3.0, 1.0, 2.0, 2.0], [0.9, 0.5, 0.4, 0.7])
        [1, 3, 0]
    """
    front: list[int] = []
    known = [i for i in range(len(costs)) if np.isfinite(values[i])]  # NaN has no place in an order
    for i in sorted(known, key=lambda i: (costs[i], -values[i])):
        if not front or values[i] > values[front[-1]]:
            front.append(i)
    return front


def pareto(axes: Axes, points: Sequence[Point], spent: Sequence[Spent] | None) -> None:
    """Draw points with their intervals, the front as steps, and the names of those on it and of each other method once.

    Args:
        axes: Panel, whose place in the figure is fixed.
        points: Points.
        spent: FLOPs of the points, in their order; None: they are not known.
    """
    scale, unit = unit_of(spent or [])
    costs = [p.average for p in points] if spent is None else [each.total / scale for each in spent]
    values = [np.nan if p.row["retention"] is None else 100 * p.row["retention"] for p in points]
    front = frontier(costs, values)
    _axes(axes, costs, values, logarithmic=spent is not None)
    axes.set_xlabel("average tokens" if spent is None else f"{unit}FLOPs, language model + selector")
    axes.text(0, 1.012, "retention, %", transform=axes.transAxes, ha="left", fontsize=6.5)
    if front:
        steps = [*front, front[-1]]
        at = [costs[i] for i in front] + [axes.get_xlim()[1]]
        axes.step(at, [values[i] for i in steps], where="post", color=GREY, linewidth=0.7, zorder=1)
    for x, y, point in zip(costs, values, points, strict=True):
        paint = COLOURS[point.kind]
        if point.interval is not None:
            axes.plot([x, x], [100 * end for end in point.interval], color=paint, linewidth=0.6, zorder=2)
        axes.plot([x], [y], MARKS[point.kind], color=paint, ms=3, mec="white", mew=0.3, zorder=3)
    _names(axes, points, costs, values, front)


def legend(points: Sequence[Point]) -> list[Line2D]:
    """Return the handles of the kinds that there are, and of the front."""
    kinds = [kind for kind in COLOURS if any(point.kind == kind for point in points)]
    handles = [
        Line2D([], [], ls="", marker=MARKS[kind], color=COLOURS[kind], ms=3.5, label=legend_label(WORDS[kind]))
        for kind in kinds
    ]
    return [*handles, Line2D([], [], color=GREY, linewidth=0.7, label="nothing cheaper retains as much")]


def _axes(axes: Axes, costs: Sequence[float], values: Sequence[float], logarithmic: bool) -> None:
    known = [value for value in values if np.isfinite(value)] or [0.0, 100.0]
    span = max(max(known) - min(known), 5.0)
    axes.set_ylim(min(known) - 0.06 * span, max(known) + 0.16 * span)  # room for names above
    if logarithmic:
        axes.set_xscale("log")
        width = (max(costs) / min(costs)) ** 0.07 + 0.02
        axes.set_xlim(min(costs) / width, max(costs) * width**2.2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.25 * max(costs))
    axes.axhline(100, color=BLACK, linewidth=0.5, zorder=0)
    axes.grid(axis="y")


def _names(
    axes: Axes, points: Sequence[Point], costs: Sequence[float], values: Sequence[float], front: Sequence[int]
) -> None:
    """Write the names; those on the front first, then one of each method that is not on it."""
    first = [*front]
    named = {points[i].name for i in front}
    for i in sorted(range(len(points)), key=lambda i: (points[i].kind == OUTSIDE, points[i].average)):
        if points[i].name not in named and np.isfinite(values[i]):
            named.add(points[i].name)
            first.append(i)
    rest = [i for i in range(len(points)) if i not in first and np.isfinite(values[i])]
    order = [*first, *rest]
    figure, box = axes.figure, axes.get_position()
    width, height = (72 * each for each in figure.get_size_inches())  # type: ignore[union-attr]
    bounds = Box(0, 0, box.width * width, box.height * height)
    to_axes = axes.transData + axes.transAxes.inverted()
    spots = [to_axes.transform((costs[i], values[i])) * (bounds.right, bounds.top) for i in order]
    texts = [f"{points[i].name} {points[i].average:.3g}" if i in front else points[i].name for i in first]
    sizes = [text_size(text, FONT, bold=i in front) for i, text in zip(first, texts, strict=True)]
    places = placed([(float(x), float(y)) for x, y in spots], [*sizes, *[None] * len(rest)], bounds)
    for i, text, (x, y), place in zip(first, texts, spots, places, strict=False):
        if place is None:
            continue
        paint = COLOURS[points[i].kind]
        to_x, to_y = ends((x, y), place)
        if abs(to_x - x) + abs(to_y - y) > 6:
            ratio = (bounds.right, bounds.top)
            axes.plot([x / ratio[0], to_x / ratio[0]], [y / ratio[1], to_y / ratio[1]], color=paint, linewidth=0.3,
                      transform=axes.transAxes, zorder=2)  # fmt: skip
        axes.text(
            place.left / bounds.right, (place.bottom + place.top) / 2 / bounds.top, text, transform=axes.transAxes,
            fontsize=FONT, color=paint, va="center_baseline", ha="left", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.15},
            fontweight="bold" if i in front else "normal",
        )  # fmt: skip

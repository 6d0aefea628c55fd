"""Figure A1: retention over the pruning rate, a panel a kind of question and a line a size, and the verdicts."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradprobe.comparison.scaling import AVERAGE, Scaling
from gradprobe.comparison.scaling_verdicts import RULE, verdicts
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, PAGE, PURPLE, SKY, VERMILION, look
from gradprobe.statistics.ratios import FEWEST_SEEDS

COLOURS, MARKS = (GREEN, BLUE, VERMILION, PURPLE, SKY, GREY), "so^DvP"  # of the sizes, the smallest first
COLUMNS, APART = 3, 1.3  # panels in a row; distance of neighbouring sizes at a rate, in points of the rate
LINE, WIDTH = 0.117, 150  # inches and characters of a line of text below the panels


def scaling_figure(scaling: Scaling, title: str, claim: str) -> Figure:
    """Draw retention over the pruning rate, means over seeds with 95 % intervals and seeds as dots, then the verdicts.

    Lines begin at 100 % with nothing pruned, and are broken where there is no answer. Below each panel's curves stands
    the accuracy with all tokens, without which a retention says little: at chance nothing can be lost.

    Args:
        scaling: Points, as `gradprobe.comparison.scaling.scaling` returns them.
        title: Above the panels.
        claim: The paper's claim, for the caption.
    """
    lines = _caption(scaling, claim)
    rows = -(-(len(scaling.parts) + 1) // COLUMNS)
    heights = [0.25 + 1.85 * rows, 0.15 + LINE * len(lines)]
    lowest = min([100 * x for p in scaling.points.values() for x in p.by_seed.values() if np.isfinite(x)], default=0.0)
    with look():
        figure = Figure(figsize=(PAGE, sum(heights)))
        above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
        grid = above.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, part in zip(grid, scaling.parts, strict=False):
            _panel(axes, scaling, part)
            _unpruned(axes, scaling, part)
        for i, axes in enumerate(grid[: len(scaling.parts)]):
            axes.tick_params(labelbottom=i + COLUMNS >= len(scaling.parts), labelleft=i % COLUMNS == 0)
            axes.set_xlabel("tokens pruned, %" if i // COLUMNS == rows - 1 else "")
            axes.set_ylabel("retention, %" if i % COLUMNS == 0 else "")
        grid[0].set_ylim(lowest - 0.3 * (104 - lowest), 104)
        for axes in grid[len(scaling.parts) :]:
            axes.set_axis_off()
        _legend(grid[len(scaling.parts)], scaling)
        above.suptitle(title, x=0.01, ha="left", fontweight="bold")
        below.text(0.01, 1 - 0.05 / heights[1], "\n".join(lines), va="top", fontsize=6, linespacing=1.35)
    return figure


def _panel(axes: Axes, scaling: Scaling, part: str) -> None:
    """Draw the lines of a part, the sizes beside each other at each rate."""
    rates = [100 * scaling.rate(k) for k in scaling.budgets]
    for i, model in enumerate(scaling.models):
        curve = scaling.curve(model, part)
        if not curve:
            continue
        paint: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)]}
        at = [rate + APART * (i - (len(scaling.models) - 1) / 2) for rate in rates]
        means = [curve[k].retention if k in curve else None for k in scaling.budgets]
        values = [np.nan if mean is None else 100 * mean.value for mean in means]
        axes.plot([0, *at], [100, *values], linewidth=0.9, zorder=2, **paint)
        axes.plot(at, values, MARKS[i % len(MARKS)], ms=3.6, mec="white", mew=0.4, zorder=4, **paint)
        for x, k, mean in zip(at, scaling.budgets, means, strict=True):
            if mean is None:
                continue
            each = 100 * np.array(list(curve[k].by_seed.values()))
            axes.plot(np.full(len(each), x), each, "o", ms=2.6, alpha=0.35, mew=0, zorder=3, **paint)
            if len(each) > 1 and np.isfinite(mean.high - mean.low):
                axes.plot([x, x], [100 * mean.low, 100 * mean.high], linewidth=0.9, zorder=3, **paint)
    axes.axhline(100, color=BLACK, linewidth=0.6, zorder=1)
    axes.set_title(f"{part} of the kinds" if part == AVERAGE and len(scaling.parts) > 1 else part)
    axes.set_xticks([0, *rates], [f"{rate:.0f}" for rate in [0, *rates]])
    axes.grid(axis="y")


def _unpruned(axes: Axes, scaling: Scaling, part: str) -> None:
    """Write the accuracy with all tokens of each size, in its colour."""
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    style: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 6.5, "bbox": behind}
    axes.text(0.03, 0.14, "accuracy with all tokens, %", color=GREY, **style)
    for i, model in enumerate(scaling.models):
        if curve := scaling.curve(model, part):
            accuracy = 100 * float(np.mean([point.unpruned for point in curve.values()]))
            axes.text(0.03 + 0.15 * i, 0.04, f"{accuracy:.1f}", color=COLOURS[i % len(COLOURS)], **style)


def _legend(axes: Axes, scaling: Scaling) -> None:
    """Say which line is which size, and what is missing."""
    handles = []
    for i, model in enumerate(scaling.models):
        curve = scaling.curve(model, AVERAGE)
        gaps = [f"{100 * scaling.rate(k):.0f}" for k in scaling.budgets if k not in curve]
        missing = "" if not gaps else "\nno answers yet" if not curve else f"\nno answer at {', '.join(gaps)} %"
        paint: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "mec": "white"}
        handles.append(Line2D([], [], ms=4.5, mew=0.4, label=legend_label(model + missing), **paint))
    few = min((len(point.by_seed) for point in scaling.points.values()), default=0) < FEWEST_SEEDS
    bars = f"bars: 95 % interval over seeds and images{f', from {FEWEST_SEEDS} seeds on' if few else ''}"
    notes = (bars, "dots: seeds, each its own scorer and images")
    handles += [Line2D([], [], ls="", label=textwrap.fill(note, 32)) for note in notes]
    axes.legend(handles=handles, loc="center left", borderaxespad=0, labelspacing=0.7)


def _caption(scaling: Scaling, claim: str) -> Sequence[str]:
    """Return the lines below the panels: verdicts, the rule behind them, and the paper's claim."""
    sentences = [*verdicts(scaling), f"{RULE}; intervals: 95 %, one training of each model", f"Paper: {claim}"]
    whole = [each.replace(" %", "\u00a0%") for each in sentences]  # no line begins with a percent sign
    return [line for each in whole for line in textwrap.wrap(each, WIDTH, subsequent_indent="    ")]

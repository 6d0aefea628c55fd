"""The figure of cost: time and memory of the training gradient through each operator."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, INTERVAL, ORANGE, PAGE, look
from gradprobe.probes.cost.result import CostResult


def cost_figure(results: Sequence[CostResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the time of the training gradient over the unpruned forward pass, 95 % intervals, and the memory it needs.

    The dashed line is the bare encoder, forward and back with all N tokens, median over all results. An operator
    without gradient is written, not drawn as 0.

    Args:
        results: one an operator, of one model; their rows are drawn.
        rows: of the results; the first is on top.
        title: above the axes.

    Raises:
        UsageError: no results.
    """
    if not results:
        raise UsageError("no cost to draw; give at least one result")
    drawn = [(y, row) for y, row in enumerate(rows) if row["gradient"] == "yes"]
    places = np.array([y for y, _ in drawn], float)
    values, low, high = (np.array([row[f"training{end}"] for _, row in drawn], float) for end in ("", "_low", "_high"))
    parts = values * np.array([row["operator_share"] for _, row in drawn], float)
    with look():
        figure = Figure(figsize=(PAGE, 1.15 + 0.26 * len(rows)))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.5, 1])
        left.barh(places, values - parts, 0.6, left=parts, color=BLUE, label="encoder")
        left.barh(places, parts, 0.6, color=ORANGE, label="operator")
        left.errorbar(values, places, xerr=[values - low, high - values], **INTERVAL)
        bare = float(np.median([row["encoder"] for row in rows]))
        left.axvline(bare, color=BLACK, linewidth=0.8, linestyle="--", label="bare encoder, all N")
        left.set_xlabel("training gradient over unpruned forward pass")
        left.set_title(title)
        right.barh(places, [row["memory"] / 1e6 for _, row in drawn], 0.6, color=GREEN)
        right.set_xlabel("kept for the backward, MB an image")
        for y, row in enumerate(rows):
            if row["gradient"] == "none":
                for axes in (left, right):
                    axes.text(0, y, " no gradient", va="center", color=GREY)
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x")
        left.set_yticks(range(len(rows)), [str(row["op"]) for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure

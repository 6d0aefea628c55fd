"""Figure of a front: loss over FLOPs, and the tokens that each layer reads."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, SKY, VERMILION, look

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
HEIGHT = 2.7  # inches


def front_figure(rows: Sequence[dict[str, Any]], grid: Sequence[dict[str, Any]], title: str) -> Figure:
    """Draw the schedules of a search over their FLOPs, those of the grid behind them, and their tokens.

    Args:
        rows: As `gradprobe.vlm.search.result.Front.rows` makes them.
        grid: As ``grid_rows`` makes them; none without a grid.
        title: Above both panels.
    """
    whole, found = rows[0], [row for row in rows[1:] if row["schedule"] not in ("grid", "predictor")]
    predicted = [row for row in rows if row["schedule"] == "predictor"]
    with look():
        figure = Figure(figsize=(PAGE, HEIGHT))
        figure.suptitle(title, x=0.01, ha="left")
        left, right = figure.subplots(1, 2)
        _losses(left, whole, found, grid)
        _predicted(left, predicted)
        for i, row in enumerate(found):
            layers = range(len(row["counts"]) + 1)
            label = f"budget {row['budget']:g}: loss {row['loss']:.3f}"
            right.stairs(row["counts"], layers, color=COLOURS[i % len(COLOURS)], linewidth=1.6, label=label)
        for i, row in enumerate(predicted):
            colour, told = COLOURS[i % len(COLOURS)], None if i else "predictor, mean over images"
            right.stairs(row["counts"], range(len(row["counts"]) + 1), color=colour, linestyle=":", label=told)
        right.set_xlabel("layer of the language model")
        right.set_ylabel("visual tokens that it reads")
        entries = len(found) + bool(predicted)
        right.set_ylim(0, (1.05 + 0.11 * entries) * whole["counts"][0])  # the legend stands above
        right.set_xticks([i + 0.5 for i in range(len(whole["counts"]))], [str(i) for i in range(len(whole["counts"]))])
        if len(whole["counts"]) > 12:
            right.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            right.set_xticklabels([f"{tick:g}" for tick in right.get_xticks()])
        right.legend(loc="upper right")
    return figure


def _predicted(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for i, row in enumerate(rows):
        colour, label = COLOURS[i % len(COLOURS)], None if i else "predictor, a schedule an image"
        axes.plot(row["share"], row["loss"], "D", color=colour, fillstyle="none", markersize=5, label=label)
    if rows:
        axes.legend()


def _losses(axes: Axes, whole: dict[str, Any], found: Sequence[dict[str, Any]], grid: Sequence[dict[str, Any]]) -> None:
    if grid:
        cheapest = sorted(grid, key=lambda row: (row["share"], row["loss"]))
        front = [row for i, row in enumerate(cheapest) if all(row["loss"] < before["loss"] for before in cheapest[:i])]
        axes.plot([r["share"] for r in grid], [r["loss"] for r in grid], ".", color="#BBBBBB", label="grid")
        steps = [r["share"] for r in front], [r["loss"] for r in front]
        axes.step(*steps, where="post", color=GREY, linewidth=0.8, label="its front")
    for i, row in enumerate(found):
        label = f"search, {row['schedule']}" if i == 0 else None
        axes.plot(row["share"], row["loss"], "o", color=COLOURS[i % len(COLOURS)], markersize=5, label=label)
    axes.axhline(whole["loss"], color=BLACK, linestyle=":", linewidth=0.8, label="all tokens")
    axes.set_xlabel("share of the FLOPs of all visual tokens")
    axes.set_ylabel("caption loss")
    axes.set_ylim(bottom=0)
    axes.legend()

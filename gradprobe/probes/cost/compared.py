"""Cost in a comparison."""

from collections.abc import Sequence
from typing import Any

from gradprobe.plotting.columns import Row, figures
from gradprobe.probes.cost import CostSettings
from gradprobe.probes.cost.view import TIME, WORK
from gradprobe.probes.metrics import Grid, Metric, Plan, cell, ends_of, estimated, grid, without_gradient

QUESTION = "What does a training gradient take in time, operations and memory?"
BUDGET = "cost: {rounds} rounds on {images} images"
GROUP = 8  # images that are timed
METRICS = (
    Metric(
        "cost",
        "cost",
        "cost",
        "lower",
        True,
        False,
        "time of a training gradient over a bare forward pass of the unpruned encoder, compared by ratio",
        lambda row: cell(row, "training", ends_of("training"), "ratio", ratio=True, reason=without_gradient(row)),
    ),
)


def asked(plan: Plan) -> list[tuple[Any, CostSettings]]:
    """Return the questions: so many rounds on one group of images."""
    return plan.each(CostSettings(images=plan.task.available(GROUP), rounds=plan.size.rounds, seed=plan.seed))


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the tables of a page: time, and operations and memory."""
    timed = TIME | {f"training over {focus}": estimated("ratio", figures)}
    return [grid("time", rows, timed), grid("GFLOPs an image, and MB kept for the backward", rows, WORK)]


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page."""
    from gradprobe.probes.cost.figure import cost_figure

    return cost_figure(results, rows)

"""The landscape in a comparison: a line through the scorer's parameters."""

from collections.abc import Sequence
from typing import Any

from gradprobe.plotting.columns import Cell, Row, figures
from gradprobe.probes.landscape import LandscapeSettings
from gradprobe.probes.landscape.view import LEVEL, steps_columns, variation_columns
from gradprobe.probes.metrics import Grid, Metric, Plan, cell, ends_of, estimated, grid, trained

QUESTION = "How rough is the training loss along a line through the scorer's parameters?"
BUDGET = "line: {grid} points, {images} images, {noise} noise, seed {seed}"
METRICS = (
    Metric(
        "roughness",
        "roughness",
        "landscape",
        "lower",
        True,
        True,
        "mean step of the loss between neighbouring points of a line, compared by ratio; a steep smooth line has large "
        "steps too",
        lambda row: cell(row, "d2_variation", ends_of("d2"), "d2_ratio", ratio=True, seeds=trained(row)),
    ),
)


def asked(plan: Plan) -> list[tuple[Any, LandscapeSettings]]:
    """Return the questions: a line of so many points, on images as far as there are."""
    images = plan.task.available(plan.size.line_images)
    settings = LandscapeSettings(grid=str(plan.size.points), images=images, seed=plan.seed)
    return plan.each(settings)


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the tables of a page: losses, steps and variation along the line, and ratios to the focus."""
    columns: dict[str, Cell] = LEVEL | steps_columns("d2") | variation_columns("d2")
    versus = {"mean step": estimated("d2_ratio", figures), "2nd difference": estimated("d2_second_ratio", figures)}
    return [grid("along d2", rows, columns), grid(f"times that of {focus}", others, versus)]


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page."""
    from gradprobe.probes.landscape.figure import landscape_panels

    return landscape_panels(results, "")

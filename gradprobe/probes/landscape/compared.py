"""The landscape in a comparison: a line through the scorer's parameters."""

from collections.abc import Sequence
from typing import Any

from gradprobe.plotting.columns import Cell, Row, figures
from gradprobe.probes.landscape import LandscapeSettings
from gradprobe.probes.landscape.view import LEVEL, steps_columns, variation_columns
from gradprobe.probes.metrics import Grid, Metric, Plan, cell, ends_of, estimated, grid, trained
from gradprobe.probes.seeds import POSITIVE, SHARE, Pooled, row_of

QUESTION = "How rough is the training loss along a line through the scorer's parameters?"
POOLS_SEEDS = True  # several answers of an operator, one a seed, are one row
POOLED = (
    *(Pooled(name) for name in ("loss", "range", "cosine")),
    *(number for d in ("d2", "d1") for number in (
        Pooled(f"{d}_variation", "log", ends_of(d)),
        *(Pooled(f"{d}_{name}", possible=POSITIVE)
          for name in ("median", "largest", "second_difference", "tv", "tv_coarse", "step")),
        Pooled(f"{d}_zero_share", possible=SHARE),
        Pooled(f"{d}_exponent", "identity", ends_of(f"{d}_exponent")),
        *(Pooled(f"{d}_{name}", "log", ends_of(f"{d}_{name}"), versus=True) for name in ("ratio", "second_ratio")),
    )),
)  # fmt: skip
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


row = row_of  # of an operator under one seed or several


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the tables of a page: losses, steps and variation along the line, and ratios to the focus."""
    columns: dict[str, Cell] = LEVEL | steps_columns("d2") | variation_columns("d2")
    versus = {"mean step": estimated("d2_ratio", figures), "2nd difference": estimated("d2_second_ratio", figures)}
    return [grid("along d2", rows, columns), grid(f"times that of {focus}", others, versus)]


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page; of several seeds, which have lines and images of their own, the first."""
    from gradprobe.probes.landscape.figure import landscape_panels

    seeds = list(dict.fromkeys(result.question.get("seed") for result in results))
    first = [result for result in results if result.question.get("seed") == seeds[0]]
    return landscape_panels(first, f"seed {seeds[0]}, the first of {len(seeds)}" if len(seeds) > 1 else "")

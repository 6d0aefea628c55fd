"""Retention in a comparison: trainings with several seeds, and rankings that need none."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradprobe.plotting.columns import Cell, Row, interval, number
from gradprobe.probes.metrics import Grid, Metric, Plan, cell, estimated, grid
from gradprobe.probes.retention import RetentionSettings
from gradprobe.probes.seeds import check_seeds

QUESTION = "How much accuracy is left with hard top-K after training through the operator?"
POOLS_SEEDS = True  # several answers of an operator, one a seed, are one row
BUDGET = "retention: {steps} steps of {batch_size}, {images} test images, seed {seeds}"


def _retention(row: Row) -> dict[str, Any]:
    """Return retention, with the value of each seed and the spreads beside it."""
    pooled = cell(row, "retention", ("low", "high"), "difference", seeds=row["difference_seeds"])
    return {**pooled, "by_seed": row["by_seed"], "trainings": _trainings(row), "spread": spread(row)}


def spread(row: Row) -> dict[str, float | None]:
    """Return the standard deviation over seeds (None for one), and the mean standard error over a seed's images."""
    known = [value for value in row["by_seed"] if value is not None]
    over_seeds = statistics.stdev(known) if len(known) > 1 else None
    return {"seeds": over_seeds, "images": statistics.mean(row["by_seed_error"])}


def _trainings(row: Row) -> int | None:
    """Return the number of trainings of a row; None for a ranking, which needs none."""
    return len(row["by_seed"]) if row["steps"] else None


METRICS = (
    Metric(
        "retention",
        "retention",
        "retention",
        "higher",
        False,
        False,
        "accuracy with the K deployed tokens after training through the operator, over that with all tokens",
        _retention,
    ),
)


def asked(plan: Plan) -> list[tuple[Any, RetentionSettings]]:
    """Return the questions: of each seed, the rankings that the task can tell, then the trainings."""
    from gradprobe.models.rankings import USUAL, fault_of
    from gradprobe.operators.temperature import own_tau
    from gradprobe.probes.contract import Ranking, Subject

    size, images = plan.size, plan.task.available(plan.size.test_images)
    (one,) = plan.task.batches(1, 1, plan.seed)
    usual = [name for name in USUAL if fault_of(plan.task, name, plan.k, one) is None]
    rankings = list(dict.fromkeys([*usual, *plan.selectors]))
    questions = []
    for seed in range(plan.seed, plan.seed + size.seeds):
        untrained = RetentionSettings(steps=0, images=images, seed=seed)
        questions += [(Subject(plan.task, Ranking(name), plan.k), untrained) for name in rankings]
        for operator in plan.operators.values():
            recipe = RetentionSettings(steps=size.steps, batch_size=size.batch_size, images=images, seed=seed)
            if own_tau(operator):  # tau falls from 2 to 0.1, but for operators that were typed with one of their own
                recipe = replace(recipe, tau_start=None, tau_end=None)
            questions.append((Subject(plan.training, operator, plan.k), recipe))
    return questions


def row(results: Sequence[Any], base: Sequence[Any], every: Sequence[Any], alike: Any) -> dict[str, Any]:
    """Return an operator's row over its seeds, paired with those of the focus.

    Args:
        results: of the operator, one a seed.
        base: results of the focus; empty: not compared.
        every: of this probe in the comparison.
        alike: ``(results, results) -> bool``: asked the same but for operator and seed.

    Raises:
        GradprobeError: the results differ in more than their seeds.
    """
    check_seeds(results)
    return over_seeds(results, base or None)


def over_seeds(
    results: Sequence[Any], baseline: Sequence[Any] | None = None, paths: Sequence[Path | None] = ()
) -> dict[str, Any]:
    """Return the row of a training under several seeds, see `gradprobe.probes.retention.result.over_seeds`."""
    from gradprobe.probes.retention import result

    return result.over_seeds(results, baseline, paths)


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the table of a page."""
    columns: dict[str, Cell] = {
        "retention": lambda row: interval(row["retention"], row["low"], row["high"]),
        "each seed": lambda row: ", ".join(number(x, 3) for x in row["by_seed"]),
        "spread over seeds": lambda row: number(spread(row)["seeds"], 3),
        "over images": lambda row: number(spread(row)["images"], 3),
        f"difference from {focus}": estimated("difference"),
        "untrained": lambda row: number(row["untrained"]),
        "accuracy": lambda row: number(row["accuracy"], 3),
        "unpruned": lambda row: number(row["unpruned"], 3),
        "AUC": lambda row: number(row["auc"]),
    }
    return [grid(f"K = {rows[0]['k']}, {rows[0]['steps']} steps, {rows[0]['images']} test images", rows, columns)]


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page."""
    from gradprobe.plotting.style import PAGE
    from gradprobe.probes.retention.figure import retention_figure

    drawn = retention_figure([("", results)])
    drawn.set_figwidth(PAGE)  # one panel is narrow for a legend of long names
    return drawn

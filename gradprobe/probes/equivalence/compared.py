"""Equivalence in a comparison: sharp operators beside hard top-K on the same images."""

from collections.abc import Sequence
from typing import Any

from gradprobe.plotting.columns import Cell, Row
from gradprobe.probes.equivalence import EquivalenceSettings
from gradprobe.probes.metrics import Grid, Metric, Plan, cell, ends_of, estimated, grid

QUESTION = "Does the operator classify as hard top-K does, by the same random scores?"
BUDGET = "equivalence: {images} images, seed {seed}"
REFERENCE = "hard+gather"  # what is deployed
SHARP = 0.01  # temperature of operators that were typed without one


def _gap(row: Row) -> dict[str, Any]:
    """Return the gap to hard top-K and its verdict; beside it the difference from the focus."""
    reason = "the reference" if row["reference"] else f"no {REFERENCE} on the same images"
    gap = cell(row, "top1_difference", ends_of("top1_difference"), reason=reason)
    versus = {f"difference{end}": row["versus"][f"top1_difference{end}"] for end in ("", "_low", "_high")}
    return {**gap, **versus, "seeds": None, "verdict": row["top1_verdict"]}


METRICS = (
    Metric(
        "equivalence",
        "gap to hard",
        "equivalence",
        None,
        False,
        False,
        "top-1 accuracy less that of hard top-K by the same random scores on the same images; 0 is what is deployed",
        _gap,
    ),
)


def asked(plan: Plan) -> list[tuple[Any, EquivalenceSettings]]:
    """Return the questions: of hard top-K, and of every operator at its own temperature or the sharp one."""
    from gradprobe.operators.registry import build, label
    from gradprobe.operators.temperature import at_temperature, own_tau
    from gradprobe.probes.contract import Subject

    settings = EquivalenceSettings(images=plan.task.available(plan.size.equivalence_images), seed=plan.seed)
    sharp = [op if own_tau(op) else build(at_temperature(op, SHARP)) for op in plan.operators.values()]
    sharp = [build(REFERENCE), *(op for op in sharp if label(op) != REFERENCE)]
    return [(Subject(plan.task, operator, plan.k), settings) for operator in sharp]


def row(results: Sequence[Any], base: Sequence[Any], every: Sequence[Any], alike: Any) -> dict[str, Any]:
    """Return an operator's row compared with hard top-K; ``versus`` holds its comparison with the focus.

    Args:
        results: one, of the operator.
        base: the result of the focus; empty: not compared.
        every: of this probe in the comparison.
        alike: ``(results, results) -> bool``: asked the same but for the operator.
    """
    result = results[0]
    itself = result.question["op"] == REFERENCE
    others = [each for each in every if each.question["op"] == REFERENCE and alike([result], [each])]
    hard = None if itself or not others else others[0]
    return result.row(baseline=hard) | {"reference": itself, "versus": result.row(baseline=base[0] if base else None)}


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the table of a page: accuracies, gaps and verdicts."""
    columns: dict[str, Cell] = {"K": lambda row: f"{row['k']} of {row['tokens']}"}
    for of, name in (("top1", "top-1"), ("top5", "top-5")):
        columns |= {name: estimated(of), f"{name} gap": estimated(f"{of}_difference")}
        columns[f"{name} verdict"] = _word(f"{of}_verdict")
    columns[f"top-1, difference from {focus}"] = lambda row: estimated("top1_difference")(row["versus"])
    return [grid(f"gaps to hard top-K on {rows[0]['images']} images, margin {rows[0]['margin']:g}", rows, columns)]


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page; hard top-K is drawn whether or not it is among the operators compared."""
    from gradprobe.probes.equivalence.figure import equivalence_chart

    drawn = {row["op"] for row in rows}
    hard = [result.row() for result in results if result.question["op"] == REFERENCE and REFERENCE not in drawn]
    return equivalence_chart([*hard, *rows], "")


def _word(name: str) -> Cell:
    return lambda row: row[name] or "–"

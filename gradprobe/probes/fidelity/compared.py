"""Fidelity in a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradprobe.plotting.columns import Cell, Row, figures, name_of, short
from gradprobe.probes.fidelity import FidelitySettings
from gradprobe.probes.fidelity.view import estimated as estimate_of
from gradprobe.probes.metrics import (
    NOT_ASKED,
    Grid,
    Metric,
    Plan,
    cell,
    ends_of,
    estimated,
    grid,
    trained,
    without_gradient,
)
from gradprobe.probes.seeds import APART, POSITIVE, SHARE, SIGNED, Pooled, row_of

QUESTION = "Does the gradient point where the deployed loss falls?"
SIGMAS, LADDER = (0.1, 0.3, 1.0), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
POOLS_SEEDS = True  # several answers of an operator, one a seed, are one row
COSINES = ("cosine", "centred", "theta", "theta_centred")  # may exceed 1 before they are cut: no atanh
POOLED = (
    *(Pooled(name, possible=possible) for name, possible in (
        ("common_mode", SHARE), ("variance", POSITIVE), ("loss", POSITIVE), ("held_loss", POSITIVE),
        ("spread", POSITIVE), ("rounding_loss", POSITIVE), ("rounding_gradient", POSITIVE))),
    *(Pooled(name, "identity", ends_of(name), "sigmas", possible=SIGNED, uncut=f"{name}_uncut", reason=f"{name}_reason")
      for name in COSINES),
    *(Pooled(f"{name}_ungated", "identity", ends_of(f"{name}_ungated"), "sigmas", possible=SIGNED)
      for name in ("cosine", "theta")),
    *(Pooled(f"{name}_difference", "identity", ends_of(f"{name}_difference"), "sigmas", versus=True, possible=APART)
      for name in COSINES),
    Pooled("bias2", "identity", ends_of("bias2"), "sigmas", possible=POSITIVE),
    Pooled("bias2_scaled", "identity", ends_of("bias2_scaled"), "sigmas", possible=SHARE),
    Pooled("scale", "identity", ends_of("scale"), "sigmas"),
    Pooled("rate", "identity", ends_of("rate"), "ladder"),
    Pooled("moved", table="ladder", possible=SHARE),
    Pooled("rate_difference", "identity", ends_of("rate_difference"), "ladder", versus=True),
    Pooled("rate", "identity", ends_of("rate"), "ladder.ceilings"),
)  # fmt: skip
BUDGET = "fidelity: {images} images, {draws} draws, sigma {sigmas}, seed {seed}"


def _fidelity(row: Row) -> dict[str, Any]:
    at = max(row["sigmas"], key=lambda each: each["sigma"])
    reason = without_gradient(row, at.get("cosine_reason"))
    return cell(at, "cosine", ends_of("cosine"), "cosine_difference", reason=reason, seeds=trained(row))


def _descent(row: Row) -> dict[str, Any]:
    if not row["ladder"]:
        return cell(reason=NOT_ASKED)
    at = row["ladder"][len(row["ladder"]) // 2]
    return cell(at, "rate", ends_of("rate"), "rate_difference", reason=without_gradient(row), seeds=trained(row))


METRICS = (
    Metric(
        "fidelity", "fidelity", "fidelity", "higher", False, False,
        "cosine with the gradient of the smoothed deployed loss, in the scores, at the largest sigma asked",
        _fidelity,
    ),
    Metric(
        "descent", "descent", "fidelity", "higher", False, True,
        "fall of the deployed loss on held-out images per unit of step along the gradient, at the middle step asked",
        _descent,
    ),
)  # fmt: skip


def asked(plan: Plan) -> list[tuple[Any, FidelitySettings]]:
    """Return the questions; none where every token is kept, so that no score matters."""
    if plan.k >= plan.task.n_tokens:
        return []
    images, held_out = plan.size.fidelity_images, plan.size.held_out
    if (there := plan.task.available(images + held_out)) < images + held_out:
        images, held_out = there - there // 2, there // 2
    settings = FidelitySettings(
        sigmas=SIGMAS, ladder=LADDER, images=images, held_out=held_out, draws=plan.size.draws, seed=plan.seed
    )
    return plan.each(settings)


row = row_of  # of an operator under one seed or several


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the tables of a page: cosines at each sigma, and the fall of the deployed loss at each step."""
    cosines: dict[str, Cell] = {
        "σ": lambda at: f"{at['sigma']:g}",
        "cosine": lambda at: estimate_of(at, "cosine"),
        "centred": lambda at: estimate_of(at, "centred"),
        "in parameters": lambda at: estimate_of(at, "theta"),
        "bias²": lambda at: short(at["bias2"]),
        f"cosine, difference from {focus}": lambda at: estimate_of(at, "cosine_difference"),
    }
    lines = [(name_of(row), _texts(row, at, cosines)) for row in rows for at in row["sigmas"]]
    tables = [Grid("with the gradient of the smoothed deployed loss", ("operator", *cosines), tuple(lines))]
    if not rows[0]["ladder"]:
        return tables
    steps = {f"{at['step']:g}": i for i, at in enumerate(rows[0]["ladder"])}
    falls = "fall of the deployed loss per unit of step, at each step"
    for title, name, shown in ((falls, "rate", rows), (f"difference from {focus}", "rate_difference", others)):
        tables.append(grid(title, shown, {step: _rate(i, name) for step, i in steps.items()}))
    return tables


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page."""
    from gradprobe.probes.fidelity.figure import fidelity_figure

    return fidelity_figure(results, rows)


def _texts(row: Row, at: Mapping[str, Any], columns: Mapping[str, Cell]) -> tuple[str, ...]:
    none = row["gradient"] == "none"
    return tuple("none" if none and name != "σ" else column(at) for name, column in columns.items())


def _rate(step: int, name: str) -> Cell:
    return lambda row: estimated(name, figures)(row["ladder"][step])

"""Coherence in a comparison."""

from collections.abc import Sequence
from typing import Any

from gradprobe.plotting.columns import Cell, Row
from gradprobe.probes.coherence import CoherenceSettings
from gradprobe.probes.coherence.view import AGREEMENT, STRENGTH, ratio, setting
from gradprobe.probes.metrics import Grid, Metric, Plan, cell, ends_of, estimated, grid, trained, without_gradient
from gradprobe.probes.seeds import APART, SHARE, Pooled, row_of

QUESTION = "Do the gradients of different batches point the same way?"
POOLS_SEEDS = True  # several answers of an operator, one a seed, are one row
POOLED = (
    Pooled("coherence", "atanh", ("low", "high")),
    Pooled("centred", "atanh", ends_of("centred")),
    Pooled("common_mode", possible=SHARE),
    *(Pooled(name) for name in ("c_data", "c_op", "grad_norm", "m_coherence", "snr", "noise_scale")),
    *(Pooled(name, "identity", ends_of(name), versus=True, possible=APART)
      for name in ("difference", "centred_difference")),
    *(Pooled(f"{of}ratio", "log", ends_of(f"{of}ratio"), versus=True, reason=f"{of}ratio_reason")
      for of in ("", "centred_")),
)  # fmt: skip
BUDGET = "coherence: {batches} batches of {batch_size}, {draws} draws, seed {seed}"
METRICS = (
    Metric(
        "coherence", "coherence", "coherence", "higher", False, False,
        "mean cosine between the scorer's gradients of different batches; 1 if all batches point the same way",
        lambda row: cell(
            row, "coherence", ("low", "high"), "difference", reason=without_gradient(row), seeds=trained(row)
        ),
    ),
    Metric(
        "centred", "centred C", "coherence", "higher", False, False,
        "coherence without the part that moves all scores of an image alike, which changes no ranking",
        lambda row: cell(
            row, "centred", ends_of("centred"), "centred_difference", reason=without_gradient(row), seeds=trained(row)
        ),
    ),
)  # fmt: skip


def asked(plan: Plan) -> list[tuple[Any, CoherenceSettings]]:
    """Return the questions: as many batches as the size says, or as there are images for."""
    size = plan.size.batch_size
    batches = plan.task.available(plan.size.batches * size) // size
    return plan.each(CoherenceSettings(batches=batches, batch_size=size, seed=plan.seed))


row = row_of  # of an operator under one seed or several


def grids(rows: Sequence[Row], others: Sequence[Row], focus: str) -> list[Grid]:
    """Return the tables of a page: all numbers, and differences and ratios to the focus."""
    known = AGREEMENT | STRENGTH
    versus: dict[str, Cell] = {
        "C": estimated("difference"),
        "centred": estimated("centred_difference"),
        "ratio of C": ratio,
        "ratio of centred": lambda row: ratio(row, "centred_"),
    }
    return [
        grid(setting(rows).replace("\n", "; "), rows, known, tuple(known)),
        grid(f"difference from {focus}", others, versus),
    ]


def figure(results: Sequence[Any], rows: Sequence[Row]) -> Any:
    """Return the figure of a page."""
    from gradprobe.probes.coherence.figure import coherence_bars

    return coherence_bars(rows, "")

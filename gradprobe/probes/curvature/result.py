"""Result of the curvature probe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.probes.rounding_view import columns_of
from gradprobe.store.results import check_shapes


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureResult(ProbeResult):
    """Eigenvalues and trace of the Hessian of a scorer's mean loss, or why there is none, for one operator.

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key.
        reason: why there is no Hessian; empty if there is one.
        eigenvalues: those of largest magnitude, largest first, ``(E,)``; empty without a Hessian.
        residuals: ``|H v - lambda v| / |lambda|`` of each, ``(E,)``: how far it has converged.
        trace_samples: ``v^T H v`` for random signs v, ``(S,)``, whose mean estimates the trace.
        checks: relative errors of the derivatives against differences, ``gradient_error`` and ``hessian_error``; None
            where it did not come to that.
        loss: mean loss at theta.
        environment: versions, machine, seconds and date; not part of the key.
        rounding: relative errors of bfloat16 against float32: ``loss``, ``gradient`` in the scores, ``hessian`` times a
            vector, for the first ``images``; empty in other precisions.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    reason: str
    eigenvalues: np.ndarray
    residuals: np.ndarray
    trace_samples: np.ndarray
    checks: dict[str, Any]
    loss: float
    environment: dict[str, Any]
    rounding: dict[str, Any] = field(default_factory=dict)
    probe: ClassVar[str] = "curvature"

    def __post_init__(self) -> None:
        count = (len(self.eigenvalues),)
        samples = (len(self.trace_samples),)
        check_shapes(self, {"eigenvalues": count, "residuals": count, "trace_samples": samples})

    def row(self, baseline: "CurvatureResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return the result as a row of the curvature table; plain numbers, strings and None.

        Args:
            baseline: not compared with; rows of every probe take one.
            path: where the result is stored.
        """
        from gradprobe.statistics.estimates import batch_mean

        trace = batch_mean(self.trace_samples.astype(np.float64)).estimate() if len(self.trace_samples) else None
        asked = self.question
        return {
            "op": asked["op"],
            "hessian": self.reason or "yes",
            "loss": self.loss,
            "eigenvalues": [float(x) for x in self.eigenvalues],
            "residuals": [float(x) for x in self.residuals],
            "trace": trace and trace.value,
            "trace_low": trace and trace.low,
            "trace_high": trace and trace.high,
            "images": asked["images"],
            "steps": asked["steps"],
            **self.checks,
            **columns_of(self.rounding),
            "path": None if path is None else str(path),
        }

"""What each probe found: a frozen dataclass a probe, from which every number of its table can be made (no torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.errors import GradprobeError
from gradprobe.store import SCHEMA, Entry, Store, key_of, kind

__all__ = ["SCHEMA", "CoherenceResult", "CurvatureResult", "Entry", "LandscapeResult", "Store", "key_of"]


@kind
@dataclass(frozen=True, eq=False)
class CoherenceResult:
    """Inner products of the scorer's gradients of B batches under R noise draws, for one operator.

    Every number of the coherence table, and its interval, is a function of these arrays (`row`).

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key.
        groups: names of the scorer's G parameter groups.
        gradient: ``"yes"``, or ``"none"`` for an operator that lets no gradient through.
        gram: inner products of batch gradients, raw and centred, per parameter group, ``(2, G, B, R, B, R)``.
        energy: squared norm of the score gradients u of a batch, ``(B, R)``.
        common: the part of it along the all-ones vector, ``(B, R)``.
        losses: mean loss of a batch, ``(B, R)``.
        spread: standard deviation of an image's scores, mean over a batch, ``(B,)``.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    groups: tuple[str, ...]
    gradient: str
    gram: np.ndarray
    energy: np.ndarray
    common: np.ndarray
    losses: np.ndarray
    spread: np.ndarray
    environment: dict[str, Any]
    probe: ClassVar[str] = "coherence"

    def __post_init__(self) -> None:
        b, r = self.energy.shape if self.energy.ndim == 2 else (0, 0)
        shapes = {"gram": (2, len(self.groups), b, r, b, r), "energy": (b, r), "common": (b, r), "losses": (b, r)}
        _check_shapes(self, {**shapes, "spread": (b,)})

    def row(self, baseline: "CoherenceResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """The result as a row of the coherence table; with a baseline, also the ratio to it.

        Args:
            baseline: the same question asked of another operator.
            path: where the result is stored.

        Returns:
            Plain numbers, strings and None (undefined), ready for JSON.
        """
        from gradprobe.statistics import coherence_row  # scipy takes half a second: listing results does without

        asked = self.question
        gram = None if baseline is None else baseline.gram
        numbers = coherence_row(self.gram, self.common, self.energy, asked["batch_size"], baseline=gram)
        about = {name: asked[name] for name in ("batch_size", "batches", "draws", "steps")}
        where = None if path is None else str(path)
        return {"op": asked["op"], **numbers, **about, "gradient": self.gradient, "path": where}


@kind
@dataclass(frozen=True, eq=False)
class LandscapeResult:
    """The loss of I images at ``theta + a_i d1 + b_j d2``, for one operator; a line is a plane of one row, ``a = [0]``.

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key.
        losses: of each image at each cell, ``(A, B, I)``; the surface is their mean.
        a: coordinates along d1, ``(A,)``.
        b: coordinates along d2, ``(B,)``.
        centre: loss of each image at theta itself, ``(I,)``.
        directions: how theta and the directions lie: norms ``theta``, ``d1``, ``d2``, the ``cosine`` of d1 and d2 (None
            if one is zero), how many ``parameters`` they move.
        path: coordinates of the checkpoints that span the plane, ``(T, 2)``; empty for random directions.
        path_losses: loss of each image at these checkpoints themselves, ``(T, I)``.
        explained: share of the trajectory's squared distances along each direction, ``(2,)``; empty unless it is a PCA.
        residual: how far each checkpoint lies off the plane, over its distance to the origin, ``(T,)``.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    losses: np.ndarray
    a: np.ndarray
    b: np.ndarray
    centre: np.ndarray
    directions: dict[str, Any]
    path: np.ndarray
    path_losses: np.ndarray
    explained: np.ndarray
    residual: np.ndarray
    environment: dict[str, Any]
    probe: ClassVar[str] = "landscape"

    def __post_init__(self) -> None:
        _check_shapes(self, {
            "losses": (len(self.a), len(self.b), len(self.centre)), "a": (len(self.a),), "b": (len(self.b),),
            "centre": (len(self.centre),), "path": (len(self.path), 2), "residual": (len(self.path),),
            "path_losses": (len(self.path), len(self.centre)), "explained": (2 * (len(self.explained) > 0),),
        })  # fmt: skip

    @property
    def surface(self) -> np.ndarray:
        """Mean loss at each cell, ``(A, B)`` in float64; NaN where an image's loss is."""
        return self.losses.mean(-1, dtype=np.float64)

    def row(self, baseline: "LandscapeResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """The result as a row of the landscape table; with a baseline on the same grid, also the ratio to it.

        Args:
            baseline: the same question asked of another operator.
            path: where the result is stored.

        Returns:
            Plain numbers, strings and None (undefined), ready for JSON.
        """
        from gradprobe.roughness import landscape_row  # scipy takes half a second: listing results does without

        asked = self.question
        numbers = landscape_row(self.losses, self.a, self.b, None if baseline is None else baseline.losses)
        about = {name: asked[name] for name in ("images", "noise", "axes", "steps")}
        where = None if path is None else str(path)
        centre = float(self.centre.mean(dtype=np.float64))
        loss = centre if np.isfinite(centre) else None
        return {"op": asked["op"], "loss": loss, **numbers, "cosine": self.directions["cosine"], **about, "path": where}


@kind
@dataclass(frozen=True, eq=False)
class CurvatureResult:
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
    probe: ClassVar[str] = "curvature"

    def __post_init__(self) -> None:
        count = (len(self.eigenvalues),)
        samples = (len(self.trace_samples),)
        _check_shapes(self, {"eigenvalues": count, "residuals": count, "trace_samples": samples})

    def row(self, baseline: "CurvatureResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """The result as a row of the curvature table; plain numbers, strings and None.

        Args:
            baseline: not compared with; rows of every probe take one.
            path: where the result is stored.
        """
        from gradprobe.statistics import batch_mean

        trace = batch_mean(self.trace_samples.astype(np.float64)).estimate() if len(self.trace_samples) else None
        asked = self.question
        return {
            "op": asked["op"], "hessian": self.reason or "yes", "loss": self.loss,
            "eigenvalues": [float(x) for x in self.eigenvalues], "residuals": [float(x) for x in self.residuals],
            "trace": trace and trace.value, "trace_low": trace and trace.low, "trace_high": trace and trace.high,
            "images": asked["images"], "steps": asked["steps"], **self.checks,
            "path": None if path is None else str(path),
        }  # fmt: skip


def _check_shapes(result: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if getattr(result, name).shape != shape:
            told = f"{name} of a {result.probe} result has shape {getattr(result, name).shape}"
            raise GradprobeError(f"{told}, not {shape}")

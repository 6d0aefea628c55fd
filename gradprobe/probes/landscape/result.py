"""Result of the landscape probe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.store.results import check_shapes


@dataclass(frozen=True, eq=False, repr=False)
class LandscapeResult(ProbeResult):
    """Losses of I images at ``theta + a_i d1 + b_j d2``, for one operator; a line is a plane of one row, ``a = [0]``.

    Attributes:
        question: All that decides the numbers, JSON only; its hash is the key.
        losses: Loss of each image at each cell, ``(A, B, I)``; the surface is their mean.
        a: Coordinates along d1, ``(A,)``.
        b: Coordinates along d2, ``(B,)``.
        centre: Loss of each image at theta itself, ``(I,)``.
        directions: Norms of ``theta``, ``d1`` and ``d2``, the ``cosine`` of d1 and d2 (None if one is zero), and the
            number of ``parameters`` that they move.
        path: Coordinates of the checkpoints that span the plane, ``(T, 2)``; empty for random directions.
        path_losses: Loss of each image at these checkpoints themselves, ``(T, I)``.
        explained: Share of the trajectory's squared distances along each direction, ``(2,)``; empty unless it is a PCA.
        residual: Distance of each checkpoint from the plane over its distance from the origin, ``(T,)``.
        environment: Versions, machine, seconds and date; not part of the key.

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
        check_shapes(self, {
            "losses": (len(self.a), len(self.b), len(self.centre)), "a": (len(self.a),), "b": (len(self.b),),
            "centre": (len(self.centre),), "path": (len(self.path), 2), "residual": (len(self.path),),
            "path_losses": (len(self.path), len(self.centre)), "explained": (2 * (len(self.explained) > 0),),
        })  # fmt: skip

    @property
    def surface(self) -> np.ndarray:
        """Mean loss at each cell, ``(A, B)`` in float64; NaN where the loss of an image is."""
        return self.losses.mean(-1, dtype=np.float64)

    def row(self, baseline: "LandscapeResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return the result as a row of the landscape table; with a baseline on the same grid, also the ratio to it.

        Args:
            baseline: Result of another operator. One on another grid is not compared with: principal planes of two
                operators differ.
            path: Place of the stored result.

        Returns:
            Plain numbers, strings and None (undefined), ready for JSON.
        """
        from gradprobe.statistics.roughness import landscape_row  # scipy, half a second: not for a list of results

        if baseline is not None and not (np.array_equal(self.a, baseline.a) and np.array_equal(self.b, baseline.b)):
            baseline = None
        numbers = landscape_row(self.losses, self.a, self.b, None if baseline is None else baseline.losses)
        centre = float(self.centre.mean(dtype=np.float64))
        sizes = {name: self.question[name] for name in ("images", "noise", "axes", "steps")}
        return {
            "op": self.question["op"],
            "loss": centre if np.isfinite(centre) else None,
            **numbers,
            "cosine": self.directions["cosine"],
            **sizes,
            "path": None if path is None else str(path),
        }

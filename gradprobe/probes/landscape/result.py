"""What the landscape probe found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.store.results import check_shapes, kind


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
        check_shapes(self, {
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
        from gradprobe.statistics.roughness import (
            landscape_row,  # scipy takes half a second: listing results does without
        )

        asked = self.question
        numbers = landscape_row(self.losses, self.a, self.b, None if baseline is None else baseline.losses)
        about = {name: asked[name] for name in ("images", "noise", "axes", "steps")}
        where = None if path is None else str(path)
        centre = float(self.centre.mean(dtype=np.float64))
        loss = centre if np.isfinite(centre) else None
        return {"op": asked["op"], "loss": loss, **numbers, "cosine": self.directions["cosine"], **about, "path": where}

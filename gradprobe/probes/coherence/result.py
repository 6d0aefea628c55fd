"""Result of the coherence probe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.store.results import check_shapes


@dataclass(frozen=True, eq=False, repr=False)
class CoherenceResult(ProbeResult):
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
        check_shapes(self, {**shapes, "spread": (b,)})

    def row(self, baseline: "CoherenceResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return the result as a row of the coherence table; with a baseline, also the ratio to it.

        Args:
            baseline: the same question asked of another operator.
            path: where the result is stored.

        Returns:
            Plain numbers, strings and None (undefined), ready for JSON.
        """
        from gradprobe.statistics.estimates import (
            coherence_row,  # scipy takes half a second: listing results does without
        )

        asked = self.question
        gram = None if baseline is None else baseline.gram
        numbers = coherence_row(self.gram, self.common, self.energy, asked["batch_size"], baseline=gram)
        about = {name: asked[name] for name in ("batch_size", "batches", "draws", "steps")}
        where = None if path is None else str(path)
        return {"op": asked["op"], **numbers, **about, "gradient": self.gradient, "path": where}

"""Result of the reference: the gradient of the smoothed deployed objective, with which operators are compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.store.results import check_shapes


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceResult(ProbeResult):
    """Estimates of ``grad J_sigma`` of I images at S sigmas, in H independent parts; the same for all operators.

    Attributes:
        question: everything that decides the numbers, JSON only; its hash is the key. It names no operator.
        ids: the images, ``(I,)``.
        sigmas: of the smoothing, in units of the scores, ``(S,)``.
        parts: each part's estimate of the gradient, summed over blocks of draws, ``(S, H, I, N)`` float32.
        blocks: number of blocks in that sum.
        losses: deployed loss of each image, ``(I,)``.
        spread: standard deviation of each image's scores, ``(I,)``.
        theta_bb: inner products of the scorer gradients of G groups of images, from different parts, ``(S, G, G)``;
            G is 0 with random scores.
        theta_noise: variance of the noise of their sums, ``(S,)``.
        ladder: steps relative to the norm of theta, ``(E,)``.
        held: deployed loss of each held-out image at theta, ``(I_h,)``.
        after: after a step along the reference itself, ``(S, E, I_h)``.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    ids: np.ndarray
    sigmas: np.ndarray
    parts: np.ndarray
    blocks: int
    losses: np.ndarray
    spread: np.ndarray
    theta_bb: np.ndarray
    theta_noise: np.ndarray
    ladder: np.ndarray
    held: np.ndarray
    after: np.ndarray
    environment: dict[str, Any]
    probe: ClassVar[str] = "reference"

    def __post_init__(self) -> None:
        s, h, i, n = self.parts.shape if self.parts.ndim == 4 else (0, 0, 0, 0)
        groups = self.theta_bb.shape[-1]
        check_shapes(self, {
            "parts": (len(self.sigmas), h, len(self.ids), n), "losses": (i,), "spread": (i,),
            "theta_bb": (s, groups, groups), "theta_noise": (s,), "after": (s, len(self.ladder), len(self.held)),
        })  # fmt: skip

    @property
    def gradients(self) -> np.ndarray:
        """Each part's estimate, ``(S, H, I, N)`` in float64; their mean is the estimate of the gradient."""
        return self.parts.astype(np.float64) / self.blocks

    def row(self, baseline: "ReferenceResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return a row that says how precisely the reference is known, with a table for each sigma.

        Args:
            baseline: ignored; rows of every probe take one.
            path: place of the stored result.
        """
        from gradprobe.statistics.agreement import reference_rows

        about = {name: self.question[name] for name in ("k", "images", "draws", "scores")}
        rows = reference_rows(self.sigmas, self.gradients, self.ladder, self.held, self.after)
        loss, spread = (float(x.mean(dtype=np.float64)) for x in (self.losses, self.spread))
        where = None if path is None else str(path)
        return {"op": "reference", "loss": loss, "spread": spread, "sigmas": rows, **about, "path": where}

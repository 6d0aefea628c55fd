"""Result of the fidelity probe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.errors import UsageError
from gradprobe.probes.result import ProbeResult
from gradprobe.probes.rounding_view import columns_of
from gradprobe.store.results import check_shapes


@dataclass(frozen=True, eq=False, repr=False)
class FidelityResult(ProbeResult):
    """Inner products of an operator's gradient with that of the smoothed deployed objective, and steps along it.

    Every number of the fidelity table is a function of these arrays (`row`), which include what it needs of the
    reference. Below, a is the operator's gradient in the scores of an image and b the reference's; I images, S sigmas,
    G groups of images, E steps, I_h held-out images.

    Attributes:
        question: everything that decides the numbers, JSON only; its hash is the key.
        gradient: ``"yes"``, or ``"none"`` for an operator that lets no gradient through.
        ids: the images, ``(I,)``.
        sigmas: of the smoothing, in units of the scores, ``(S,)``.
        ab: ``<a_i, b_i>``, ``(S, I)``.
        aa: ``|E a_i|^2``, from different noise draws, and the variance of its noise; raw and centred, ``(2, 2, I)``.
        power: mean of ``|a_ir|^2`` over noise draws, raw and centred, ``(2, I)``.
        bb: ``|E b_i|^2``, from different parts of the draws, and the variance of its noise, ``(S, 2, I)``.
        theta_ab: products of the scorer gradients of groups of images, raw and centred, ``(2, S, G, G)``; G is 0
            with random scores.
        theta_aa: ``(2, G, G)``.
        theta_bb: ``(S, G, G)``.
        theta_noise: variance of the noise of the sums of theta_aa and theta_bb, ``(2 + S,)``.
        ladder: steps relative to the norm of theta, ``(E,)``.
        held: deployed loss of each held-out image at theta, ``(I_h,)``.
        after: after a step along the operator's gradient, ``(E, I_h)``; ``(0, I_h)`` without a gradient.
        ceiling: after a step along the reference, ``(S, E, I_h)``.
        losses: deployed loss of each image, ``(I,)``.
        spread: standard deviation of each image's scores, ``(I,)``.
        environment: versions, machine, seconds and date; not part of the key.
        rounding: relative errors of bfloat16 against float32: ``loss`` and ``gradient`` in the scores, for the first
            ``images``; empty in other precisions.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    gradient: str
    ids: np.ndarray
    sigmas: np.ndarray
    ab: np.ndarray
    aa: np.ndarray
    power: np.ndarray
    bb: np.ndarray
    theta_ab: np.ndarray
    theta_aa: np.ndarray
    theta_bb: np.ndarray
    theta_noise: np.ndarray
    ladder: np.ndarray
    held: np.ndarray
    after: np.ndarray
    ceiling: np.ndarray
    losses: np.ndarray
    spread: np.ndarray
    environment: dict[str, Any]
    rounding: dict[str, Any] = field(default_factory=dict)
    probe: ClassVar[str] = "fidelity"

    def __post_init__(self) -> None:
        s, i, e, held = map(len, (self.sigmas, self.ids, self.ladder, self.held))
        g = self.theta_bb.shape[-1]
        check_shapes(self, {
            "ab": (s, i), "aa": (2, 2, i), "power": (2, i), "bb": (s, 2, i), "losses": (i,), "spread": (i,),
            "theta_ab": (2, s, g, g), "theta_aa": (2, g, g), "theta_bb": (s, g, g), "theta_noise": (2 + s,),
            "ceiling": (s, e, held), "after": (e * (self.gradient == "yes"), held),
        })  # fmt: skip

    def row(self, baseline: "FidelityResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return the row of the fidelity table; with a baseline, also the differences to it.

        Args:
            baseline: answer to the same question for another operator.
            path: place of the stored result.

        Returns:
            Plain numbers, strings, None (undefined), and two lists of such: ``sigmas`` and ``ladder``.

        Raises:
            UsageError: the baseline is of other images or sigmas.
        """
        from gradprobe.statistics.agreement import fidelity_row

        if baseline is not None and not all(
            np.array_equal(getattr(self, n), getattr(baseline, n)) for n in ("ids", "sigmas", "ladder", "held")
        ):
            raise UsageError("a fidelity is compared on the same images, sigmas and steps; ask both the same question")
        settings = self.question
        numbers = fidelity_row(self._products(), None if baseline is None else baseline._products())
        about = {name: settings[name] for name in ("k", "images", "draws", "noise_draws", "scores")}
        loss, spread = (float(x.mean(dtype=np.float64)) for x in (self.losses, self.spread))
        held = float(self.held.mean(dtype=np.float64)) if len(self.held) else None
        return {
            "op": settings["op"], "gradient": self.gradient, **numbers, "loss": loss, "held_loss": held,
            "held_out": len(self.held), "spread": spread, **about, **columns_of(self.rounding),
            "path": None if path is None else str(path),
        }  # fmt: skip

    def _products(self) -> Any:
        from dataclasses import fields

        from gradprobe.statistics.agreement import Products

        return Products(**{f.name: np.asarray(getattr(self, f.name), np.float64) for f in fields(Products)})

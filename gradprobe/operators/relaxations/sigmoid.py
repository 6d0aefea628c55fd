"""Sigmoid of the distance to a threshold: no budget, but a loss that asks for one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class Sigmoid:
    """Soft threshold: ``alpha_i = sigmoid((s_i - threshold) / tau)``; on the loss ``ratio (mean alpha - K/N)^2``.

    ATP-LLaVA predicts a threshold for each image and layer; here it is a number, and the scorer can shift its scores.
    The loss asks for the budget, which is not kept. K = N keeps all.

    Gradient: exact. Source: ATP-LLaVA, arXiv 2412.00447.

    Attributes:
        tau: Inverse of the sharpness, in units of the scores, > 0.
        threshold: Score above which tokens are kept.
        ratio: Weight of the budget loss, >= 0.
    """

    tau: float = 1.0
    threshold: float = 0.0
    ratio: float = 2.0
    suited = "attention"
    about = About(
        "alpha_i = sigmoid((s_i - threshold) / tau); loss ratio (mean alpha - K/N)^2",
        "exact",
        "ATP-LLaVA, arXiv 2412.00447",
        ("atp-llava",),
    )

    def __post_init__(self) -> None:
        check_positive("sigmoid", "tau", self.tau)
        if not abs(self.threshold) < float("inf"):
            raise UsageError(
                f"sigmoid:threshold={self.threshold:g}: it must be a finite number, e.g. sigmoid:threshold=0"
            )
        if not 0 <= self.ratio < float("inf"):
            raise UsageError(f"sigmoid:ratio={self.ratio:g}: the weight of the budget must be 0 or more, and finite")

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        return torch.sigmoid((wide - self.threshold) / self.tau).to(scores.dtype)

    def penalty(self, scores: Tensor, weights: Tensor, k: int) -> Tensor:
        """Return the budget loss of each image, ``(B,)``."""
        return self.ratio * (weights.mean(-1) - k / weights.shape[-1]).square()

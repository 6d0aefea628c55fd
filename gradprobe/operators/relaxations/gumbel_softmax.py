"""Binary Gumbel-softmax per token, with a straight-through backward and a ratio loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class GumbelSoftmax:
    """Independent decision for each token: ``D_i = 1[s_i + g_i > g'_i]``, plus ``ratio (mean D - K/N)^2`` on the loss.

    The backward is that of ``sigmoid((s_i + g_i - g'_i) / temperature)``: a Gumbel-softmax over the two logits
    ``(s_i, 0)``. The loss asks for the budget, which is not kept; deployment keeps the K highest scores. K = N keeps
    all. As in the paper the temperature is not annealed, hence its name: schedules change fields called tau.

    Gradient: biased. Source: DynamicViT, arXiv 2106.02034; Dynamic-LLaVA, arXiv 2412.00876.

    Attributes:
        temperature: Temperature of the backward, > 0.
        ratio: Weight of the ratio loss, >= 0.
    """

    temperature: float = 1.0
    ratio: float = 2.0
    suited = "dynamicvit"
    about = About(
        "alpha_i = 1[s_i + g_i > g'_i]; loss ratio (mean alpha - K/N)^2",
        "biased",
        "DynamicViT, arXiv 2106.02034",
        ("dynamicvit", "dynamic-llava", "gumbel-softmax", "concrete"),
        stochastic=True,
    )

    def __post_init__(self) -> None:
        check_positive("gumbel-softmax", "temperature", self.temperature)
        if not 0 <= self.ratio < float("inf"):
            raise UsageError(
                f"gumbel-softmax:ratio={self.ratio:g}: the weight of the ratio must be 0 or more, and finite"
            )

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        keep, drop = noise.gumbel((2, *scores.shape[1:]), like=wide).unbind(1)
        logit = wide + (keep - drop)
        soft = torch.sigmoid(logit / self.temperature)
        return ((logit > 0).to(wide.dtype) + (soft - soft.detach())).to(scores.dtype)

    def penalty(self, scores: Tensor, weights: Tensor, k: int) -> Tensor:
        """Return the ratio loss of each image, ``(B,)``."""
        return self.ratio * (weights.mean(-1) - k / weights.shape[-1]).square()

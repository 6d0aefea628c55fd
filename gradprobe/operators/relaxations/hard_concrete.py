"""Hard concrete: stochastic gates that reach exactly zero and one."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened

LOW, HIGH = -0.1, 1.1  # gamma and zeta: ends of the stretched concrete variable


@dataclass(frozen=True)
class HardConcrete:
    """Stretched, clipped concrete gate: ``z_i = clip(1.2 sigmoid((logit u_i + s_i) / beta) - 0.1, 0, 1)``.

    ``P(z_i > 0) = sigmoid(s_i - beta log(0.1 / 1.1))`` is differentiable, so the loss can ask for an expected number of
    open gates: ``ratio (mean_i P(z_i > 0) - K/N)^2``, where the paper has a Lagrange multiplier times their number. No
    budget is kept. K = N keeps all.

    Gradient: exact (given the noise). Source: Louizos, Welling and Kingma, arXiv 1712.01312, with its gamma and zeta.

    Attributes:
        beta: Temperature of the gate, > 0.
        ratio: Weight of the budget loss, >= 0.
    """

    beta: float = 2 / 3
    ratio: float = 2.0
    about = About(
        "alpha_i = clip(1.2 sigmoid((logit u_i + s_i) / beta) - 0.1, 0, 1); loss ratio (mean P(alpha>0) - K/N)^2",
        "exact",
        "L0 regularisation, arXiv 1712.01312",
        ("hard-concrete",),
        stochastic=True,
    )

    def __post_init__(self) -> None:
        check_positive("hard-concrete", "beta", self.beta)
        if not 0 <= self.ratio < float("inf"):
            raise UsageError(
                f"hard-concrete:ratio={self.ratio:g}: the weight of the budget must be 0 or more, and finite"
            )

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        u = noise.uniform(scores.shape[1:], like=scores.double()).logit().to(wide.dtype)
        return (torch.sigmoid((u + wide) / self.beta) * (HIGH - LOW) + LOW).clamp(0, 1).to(scores.dtype)

    def penalty(self, scores: Tensor, weights: Tensor, k: int) -> Tensor:
        """Return the budget loss of each image, ``(B,)``."""
        is_open = torch.sigmoid(scores - self.beta * math.log(-LOW / HIGH)).mean(-1)
        return self.ratio * (is_open - k / scores.shape[-1]).square()

"""Logistic soft top-K: two-anchor entropic optimal transport."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk


@dataclass(frozen=True)
class Logistic:
    """Logistic soft top-K: ``alpha_i = sigmoid((s_i - b) / tau)`` with b such that ``sum_i alpha_i = K``.

    Gradient: exact. Source: SOFT, arXiv 2002.06504 (its regularisation is 2 tau).

    Attributes:
        tau: Temperature in units of the scores, > 0.
    """

    tau: float = 1.0
    suited = "vpnoise"
    about = About(
        "alpha_i = sigmoid((s_i - b) / tau), b: sum alpha = K",
        "exact",
        "SOFT, arXiv 2002.06504",
        ("soft-topk",),
        budget=1e-9,
    )

    def __post_init__(self) -> None:
        check_positive("logistic", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return soft_topk(scores, k, self.tau, cdf="logistic")

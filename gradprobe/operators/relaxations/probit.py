"""Probit soft top-K: the Gaussian member of the family."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk


@dataclass(frozen=True)
class Probit:
    """Gaussian soft top-K: ``alpha_i = Phi((s_i - b) / tau)`` with b such that ``sum_i alpha_i = K``.

    Gradient: exact. Source: the construction of LapSum, arXiv 2503.06242, with the Gaussian CDF.

    Attributes:
        tau: Temperature in units of the scores, > 0.
    """

    tau: float = 1.0
    suited = "vpnoise"
    about = About(
        "alpha_i = Phi((s_i - b) / tau), Phi Gaussian, b: sum alpha = K",
        "exact",
        "LapSum, arXiv 2503.06242",
        ("lapsum",),
        budget=1e-9,
    )

    def __post_init__(self) -> None:
        check_positive("probit", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return soft_topk(scores, k, self.tau, cdf="gaussian")

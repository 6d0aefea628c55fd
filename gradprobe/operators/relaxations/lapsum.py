"""LapSum: soft top-K with an exact budget and a closed form."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk


@dataclass(frozen=True)
class LapSum:
    """Laplace soft top-K: ``alpha_i = F((s_i - b) / tau)`` with b such that ``sum_i alpha_i = K``.

    Gradient: exact, ``J = (1/tau) (diag f - f f^T / sum f)``. Source: DiffPrune, Eq. 4; LapSum, arXiv 2503.06242.

    Attributes:
        tau: Temperature in units of the scores, > 0.
    """

    tau: float = 1.0
    suited = "vpnoise"
    about = About(
        "alpha_i = F((s_i - b) / tau), F Laplace, b: sum alpha = K",
        "exact",
        "LapSum, arXiv 2503.06242; DiffPrune, Eq. 4",
        ("lapsum", "diffprune"),
        budget=1e-9,
    )

    def __post_init__(self) -> None:
        check_positive("lapsum", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return soft_topk(scores, k, self.tau, cdf="laplace")

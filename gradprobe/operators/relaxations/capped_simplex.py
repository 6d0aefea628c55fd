"""Projection onto the capped simplex: soft top-K with exact zeros and ones."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk


@dataclass(frozen=True)
class CappedSimplex:
    """Euclidean projection: ``argmin_alpha |alpha - s / tau|^2`` over alpha in [0, 1] with ``sum_i alpha_i = K``.

    The solution is ``alpha_i = clip((s_i - b) / tau + 1/2, 0, 1)``; tokens beyond the ramp are kept or dropped exactly
    and have no gradient. Gradient: exact where no token lies at an end of the ramp. Source: sparse top-k with p = 2,
    arXiv 2302.01425.

    Attributes:
        tau: Width of the ramp in units of the scores, > 0.
    """

    tau: float = 1.0
    suited = "vpnoise"
    about = About(
        "alpha_i = clip((s_i - b) / tau + 1/2, 0, 1), b: sum alpha = K",
        "exact",
        "sparse top-k, arXiv 2302.01425",
        ("sparse-topk",),
        budget=1e-9,
    )

    def __post_init__(self) -> None:
        check_positive("capped-simplex", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return soft_topk(scores, k, self.tau, cdf="linear")

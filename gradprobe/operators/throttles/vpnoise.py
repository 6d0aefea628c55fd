"""VP-noise: tokens fade into noise with their weights."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, Selection
from gradprobe.operator_info import About
from gradprobe.operators.vp_mixing import check_sigma, mix


@dataclass(frozen=True)
class VPNoise:
    """Variance-preserving noising: ``sqrt(alpha_i) x_i + sqrt(1 - alpha_i) sigma_i eps_i``.

    Source: DiffPrune, Eq. 5, which takes sigma = 1 for normalised tokens; for others ``rms`` preserves the variance.

    Attributes:
        sigma: Scale of the noise: ``rms`` (root mean square of each token, detached), ``unit`` (the paper's N(0, I)) or
            a number.
    """

    sigma: float | str = "rms"

    def __post_init__(self) -> None:
        check_sigma(self.sigma, "vpnoise")

    @property
    def about(self) -> About:
        """Promise with these fields."""
        return About(
            "sqrt(alpha_i) x_i + sqrt(1 - alpha_i) sigma_i eps_i",
            "exact",
            "DiffPrune, Eq. 5",
            ("diffprune",),
            stochastic=self.sigma != 0,
        )

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        return Selection(mix(patches, patches, weights, self.sigma, noise), weights)

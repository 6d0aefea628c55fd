"""Scale, then VP-noise: the operator of the paper's probe."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, Selection
from gradprobe.operator_info import About
from gradprobe.operators.vp_mixing import check_sigma, mix


@dataclass(frozen=True)
class ScaleVPNoise:
    """Scaled tokens mixed with noise: ``sqrt(alpha_i) alpha_i x_i + sqrt(1 - alpha_i) sigma_i eps_i``.

    Source: DiffPrune, section 3.2, "a per-token scale composed with variance-preserving Gaussian mixing"; the paper
    gives no formula, and the order (scale first) is our reading.

    Attributes:
        sigma: Scale of the noise: ``rms`` (root mean square of each token, detached), ``unit`` or a number.
    """

    sigma: float | str = "rms"

    def __post_init__(self) -> None:
        check_sigma(self.sigma, "scale-vpnoise")

    @property
    def about(self) -> About:
        """Promise with these fields."""
        return About(
            "sqrt(alpha_i) alpha_i x_i + sqrt(1 - alpha_i) sigma_i eps_i",
            "exact",
            "DiffPrune, section 3.2",
            ("diffprune",),
            stochastic=self.sigma != 0,
        )

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        return Selection(mix(patches, patches * weights[..., None], weights, self.sigma, noise), weights)

"""Gumbel top-K with a straight-through backward."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class GumbelSTE:
    """Gumbel top-K sample ``m = topK(s + scale g)`` with the backward of another function.

    With ``backward=identity`` the gradient of the mask goes to the scores unchanged, ``dL/ds := dL/dm``; with
    ``backward=soft`` it goes through the logistic soft top-K of the same perturbed scores.

    Gradient: biased. Source: DiffPrune, Eq. 1.

    Attributes:
        backward: Backward, ``identity`` (the paper's Eq. 1) or ``soft``.
        scale: Scale of the Gumbel noise; 0 is a deterministic straight-through top-K.
        tau: Temperature of the soft backward, > 0; unused by ``identity``.
    """

    backward: Literal["identity", "soft"] = "identity"
    scale: float = 1.0
    tau: float = 1.0
    tau_of_backward = True
    suited = "gather"

    def __post_init__(self) -> None:
        check_positive("gumbel-ste", "tau", self.tau)
        if not 0 <= self.scale < float("inf"):
            raise UsageError(f"gumbel-ste:scale={self.scale:g}: the scale of the noise must be 0 or more, and finite")

    @property
    def about(self) -> About:
        """Promise with these fields."""
        return About(
            "alpha = topK(s + scale g)",
            "biased",
            "DiffPrune, Eq. 1; straight-through: arXiv 1308.3432",
            ("diffprune", "straight-through", "gumbel-topk"),
            stochastic=self.scale > 0,
            budget=1e-9,
        )

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        wide = widened(scores)
        perturbed = wide + self.scale * noise.gumbel(scores.shape[1:], like=wide)
        mask = top_k_mask(perturbed, k)
        surrogate = perturbed if self.backward == "identity" else soft_topk(perturbed, k, self.tau, cdf="logistic")
        return (mask + (surrogate - surrogate.detach())).to(scores.dtype)  # the bracket is exactly zero forward

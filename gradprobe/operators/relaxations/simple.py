"""SIMPLE: an exact sample of K tokens forward, exact marginals backward."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.operator_info import About
from gradprobe.operators.ksubset import marginals, sample


@dataclass(frozen=True)
class Simple:
    """Subset drawn from ``p(m) ~ e^{<s, m>}, |m| = K``, with the backward of its marginals ``mu_i = P(i in m)``.

    With ``forward=marginal`` the weights are mu itself: a relaxation without noise, whose gradient is exact.

    Gradient: unbiased for linear losses, biased for others (exact for ``forward=marginal``).
    Source: SIMPLE, arXiv 2210.01941, Eq. 4 to 6.

    Attributes:
        forward: Weights, ``sample`` or ``marginal``.
    """

    forward: Literal["sample", "marginal"] = "sample"
    suited = "gather"

    @property
    def about(self) -> About:
        """Promise with these fields."""
        cite = ("simple",)
        source = "SIMPLE, arXiv 2210.01941"
        if self.forward == "marginal":
            return About("alpha_i = P(i in m), p(m) ~ exp(<s, m>), |m| = K", "exact", source, cite, budget=1e-9)
        return About("alpha = m, p(m) ~ exp(<s, m>), |m| = K", "unbiased", source, cite, stochastic=True, budget=1e-9)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        n = scores.shape[-1]
        if k == n:
            return top_k_mask(scores, k)
        mu = marginals(scores, k)
        if self.forward == "marginal":
            return mu
        return sample(scores, k, noise.uniform((2 * n,), like=scores.double())) + (mu - mu.detach())

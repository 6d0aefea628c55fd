"""SoftSort: a softmax around each sorted score, summed over the first K."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.about import About
from gradprobe.core import Noise
from gradprobe.errors import check_positive

NOTHING = -1e30  # the logarithm of an empty sum, finite so that its derivative is zero and not NaN


@dataclass(frozen=True)
class SoftSort:
    """Column sums of SoftSort: ``alpha_j = sum_{i <= K} softmax_j(-|s_(i) - s_j| / tau)``, s_(i) the i-th largest.

    The rows of the permutation matrix sum to one, its columns need not: what exceeds one is cut off, so the weights may
    sum to less than K. K = N keeps all. The matrix itself is never made: its normalisers and column sums are sums of
    ``e^{t_i}`` and ``e^{-t_i}`` from one end, so the cost is O(N log N), not O(K N).

    Gradient: exact. Source: Prillo and Eisenschlos, arXiv 2006.16038.

    Attributes:
        tau: temperature, > 0.
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_positive("softsort", "tau", self.tau)

    @property
    def about(self) -> About:
        """What it promises."""
        formula = "alpha_j = sum_{i <= K} softmax_j(-|s_(i) - s_j| / tau)"
        return About(formula, "exact", "SoftSort, arXiv 2006.16038", ("softsort",))

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return torch.ones_like(scores)
        t, order = (scores.double() / self.tau).sort(dim=-1, descending=True, stable=True)
        above = (-t).logcumsumexp(-1) + t  # log sum_{l <= i} e^{t_i - t_l}
        below = torch.cat([_from_the_end(t)[..., 1:], torch.full_like(t[..., :1], NOTHING)], -1) - t  # l > i
        norm = torch.logaddexp(above, below)
        first = (-t - norm)[..., :k].logcumsumexp(-1)
        first = torch.cat([first, first[..., -1:].expand_as(t[..., k:])], -1)
        later = _from_the_end((t - norm)[..., :k])
        alpha = (t + first).exp()
        alpha = alpha + torch.cat([(later[..., 1:] - t[..., : k - 1]).exp(), torch.zeros_like(t[..., k - 1 :])], -1)
        return torch.zeros_like(alpha).scatter(-1, order, alpha).clamp(max=1).to(scores.dtype)


def _from_the_end(x: Tensor) -> Tensor:
    """``log sum_{l >= i} e^{x_l}``."""
    return x.flip(-1).logcumsumexp(-1).flip(-1)

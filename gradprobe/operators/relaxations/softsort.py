"""SoftSort: a softmax around each sorted score, summed over the first K."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import check_positive
from gradprobe.operator_info import About

REACH = 600.0  # largest distance between two t for which e^t can be summed directly
NOTHING = -1e30  # the logarithm of an empty sum, finite so that its derivative is zero and not NaN


@dataclass(frozen=True)
class SoftSort:
    """Column sums of SoftSort: ``alpha_j = sum_{i <= K} softmax_j(-|s_(i) - s_j| / tau)``, s_(i) the i-th largest.

    The rows of the permutation matrix sum to one, its columns need not: weights are clipped at one, so they may sum to
    less than K. K = N keeps all. The matrix is never formed: its normalisers and column sums are running sums of
    ``e^{t_i}`` and ``e^{-t_i}``, so the cost is O(N log N), not O(K N).

    Gradient: exact. Source: Prillo and Eisenschlos, arXiv 2006.16038.

    Attributes:
        tau: Temperature, > 0.
    """

    tau: float = 1.0
    about = About(
        "alpha_j = sum_{i <= K} softmax_j(-|s_(i) - s_j| / tau)",
        "exact",
        "SoftSort, arXiv 2006.16038",
        ("softsort",),
    )

    def __post_init__(self) -> None:
        check_positive("softsort", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        t, order = (scores.double() / self.tau).sort(dim=-1, descending=True, stable=True)
        narrow = t.device.type == "cpu" and bool((t[..., 0] - t[..., -1] < REACH).all())  # a GPU is not waited for
        alpha = _by_sums(t, k) if narrow else _by_logarithms(t, k)
        return torch.zeros_like(alpha).scatter(-1, order, alpha).clamp(max=1).to(scores.dtype)


def _by_sums(t: Tensor, k: int) -> Tensor:
    """Return the weights of descending t for which e^t and e^-t are finite."""
    rise = (t - (t[..., :1] + t[..., -1:]) / 2).exp()
    fall = 1 / rise
    above = rise * fall.cumsum(-1)  # sum_{l <= i} e^{t_i - t_l}
    below = fall * (_from_the_end(rise, Tensor.cumsum) - rise)  # sum_{l > i} e^{t_l - t_i}
    norm = above + below
    first, later = (fall / norm)[..., :k].cumsum(-1), _from_the_end((rise / norm)[..., :k], Tensor.cumsum)
    left = rise * torch.cat([first, first[..., -1:].expand_as(t[..., k:])], -1)
    return left + torch.cat([fall[..., : k - 1] * later[..., 1:], torch.zeros_like(t[..., k - 1 :])], -1)


def _by_logarithms(t: Tensor, k: int) -> Tensor:
    """Return the weights of any descending t, three times slower."""
    above = (-t).logcumsumexp(-1) + t
    after = _from_the_end(t, Tensor.logcumsumexp)[..., 1:]
    below = torch.cat([after, torch.full_like(t[..., :1], NOTHING)], -1) - t
    norm = torch.logaddexp(above, below)
    first, later = (-t - norm)[..., :k].logcumsumexp(-1), _from_the_end((t - norm)[..., :k], Tensor.logcumsumexp)
    left = (t + torch.cat([first, first[..., -1:].expand_as(t[..., k:])], -1)).exp()
    return left + torch.cat([(later[..., 1:] - t[..., : k - 1]).exp(), torch.zeros_like(t[..., k - 1 :])], -1)


def _from_the_end(x: Tensor, scan: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return running sums from the right."""
    return scan(x.flip(-1), -1).flip(-1)

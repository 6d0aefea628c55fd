"""The exponential family on subsets of size K, ``p(m) ~ e^{<s, m>}``: exact marginals and exact samples.

A shift of all scores does not change the family, so they are shifted until independent coins ``p_i = sigmoid(s_i + c)``
keep K tokens on average; the family is that of those coins, given that they keep exactly K. The count's distribution
then peaks near K, no number is extreme, and float64 suffices without logarithms.
"""

import math

import torch
from torch import Tensor

from gradprobe.operators.softtopk import soft_topk

NEGLIGIBLE = 45.0  # e^-45 is below the rounding of float64
WIDE = 30.0  # a gap at the boundary beyond which any shift into it will do
AT_ONCE = 1 << 22  # complex numbers held at a time


def marginals(scores: Tensor, k: int) -> Tensor:
    """Return the probability that each token is kept: ``mu_i = P(i in m) = d log e_K(e^s) / d s_i``.

    Exact and differentiable to any order; the Jacobian is the covariance of m.

    The count's characteristic function ``phi_l = prod_j (1 - p_j + p_j w^l)``, w a root of unity, gives all of them:
    ``mu_i = p_i sum_l phi_l w^{-l(K-1)} / (1 - p_i + p_i w^l) / sum_l phi_l w^{-lK}``. Terms below rounding are left
    out, so the cost is between O(N sqrt N) and O(N^2), without a loop over tokens.

    Args:
        scores: Scores, ``(B, N)``.
        k: Size of the subsets, 1 .. N - 1.

    Returns:
        Marginals ``(B, N)`` in [0, 1] that sum to K, in the dtype of the scores.

    Source: the quantity of SIMPLE, arXiv 2210.01941, by the discrete Fourier transform of a Poisson binomial (Fernandez
        and Williams, 2010) in place of its dynamic programme.

    Example:
        >>> marginals(torch.tensor([[0.0, 0.0, math.log(2.0)]], dtype=torch.float64), 1).round(decimals=6)
        tensor([[0.2500, 0.2500, 0.5000]], dtype=torch.float64)
    """
    p = _coins(scores, k)
    n = p.shape[-1]
    points = n + 1 + n % 2  # odd: no root of unity is -1, where a fair coin's factor would vanish
    last = _last_term(p, points)
    angle = 2 * math.pi / points * torch.arange(last + 1, dtype=torch.float64, device=p.device)
    turn = torch.polar(torch.ones_like(angle), angle)
    twice = torch.full_like(angle, 2.0)  # conjugate pairs
    twice[0] = 1.0
    back = torch.polar(twice, -angle * k)
    rows = max(1, AT_ONCE // (n * (last + 1)))
    parts = [_marginals(part, turn, back) for part in p.split(rows)]
    return torch.cat(parts).clamp(0, 1).to(scores.dtype)


def sample(scores: Tensor, k: int, uniforms: Tensor) -> Tensor:
    """Draw an exact sample of the family as a 0/1 mask.

    The distribution of the count of a block of tokens is the convolution of those of its halves. From all tokens
    downwards, the count of a block is split between its halves with one uniform number, in log N rounds.

    Args:
        scores: Scores, ``(B, N)``.
        k: Size of the subset, 1 .. N - 1.
        uniforms: Numbers in (0, 1), ``(B, 2N)``; the last of them are not used.

    Returns:
        Mask ``(B, N)`` in the dtype of the scores, without a graph.

    Example:
        >>> sample(torch.tensor([[9.0, -9.0, 9.0]]), 2, torch.full((1, 6), 0.5))
        tensor([[1., 0., 1.]])
    """
    with torch.no_grad():
        p = _coins(scores, k)
        b, n = p.shape
        p = torch.nn.functional.pad(p, (0, (1 << max(1, (n - 1).bit_length())) - n))
        levels = [torch.stack([1 - p, p], -1)]  # (B, blocks, counts)
        while levels[-1].shape[1] > 2:
            levels.append(_convolved(*levels[-1].unflatten(1, (-1, 2)).unbind(2)))
        counts = torch.full((b, 1), k, device=p.device)
        used = 0
        for level in reversed(levels):
            left, right = level.unflatten(1, (-1, 2)).unbind(2)
            size = left.shape[-1]
            rest = counts[..., None] - torch.arange(size, device=p.device)
            mass = left * right.gather(-1, rest.clamp(0, size - 1)) * ((rest >= 0) & (rest < size))
            total = mass.cumsum(-1)
            u = uniforms[:, used : used + counts.shape[1], None].double() * total[..., -1:]
            first = (total < u).sum(-1).clamp(max=size - 1)
            used += counts.shape[1]
            counts = torch.stack([first, counts - first], -1).flatten(1)
        return counts[:, :n].to(scores.dtype)


def _last_term(p: Tensor, points: int) -> int:
    """Return the number of the last term above rounding, ``|phi_l| <= exp(-sum p (1 - p) (1 - cos angle))``.

    A GPU computes all terms of an image that fit in `AT_ONCE`, since to look at p the host would wait for it.
    """
    half = (points - 1) // 2
    if p.device.type != "cpu" and p.shape[-1] * (half + 1) <= AT_ONCE:
        return half
    with torch.no_grad():
        spread = float((p * (1 - p)).sum(-1).amin())
    far = 1 - NEGLIGIBLE / spread if spread > 0 else -1.0
    return half if far <= -1 else min(half, math.ceil(math.acos(far) * points / (2 * math.pi)))


def _coins(scores: Tensor, k: int) -> Tensor:
    """Return coins that keep K tokens on average; the shift has no gradient, since it does not change the family."""
    wide = scores.double()
    with torch.no_grad():
        p = soft_topk(wide, k, 1.0, cdf="logistic")
        fair = (p - 0.5).abs().argmin(-1, keepdim=True)  # where the shift can be read off with all digits
        shift = p.gather(-1, fair).logit() - wide.gather(-1, fair)
        kept, dropped = wide.topk(k + 1, dim=-1).values[..., -2:].split(1, -1)
        shift = torch.where(kept - dropped > WIDE, -(kept + dropped) / 2, shift)  # or every coin is certain
    return torch.sigmoid(wide + shift)


def _marginals(p: Tensor, turn: Tensor, back: Tensor) -> Tensor:
    factors = 1 + p[..., None] * (turn - 1)
    terms = factors.prod(-2) * back
    others = (terms[..., None, :] / factors * turn).real.sum(-1)
    return p * others / terms.real.sum(-1, keepdim=True)


def _convolved(left: Tensor, right: Tensor) -> Tensor:
    """Return the distributions of the sum of two independent counts."""
    size = left.shape[-1] + right.shape[-1] - 1
    return torch.fft.irfft(torch.fft.rfft(left, size) * torch.fft.rfft(right, size), size).clamp(min=0)

"""Ends of a ranking of tokens, and cosines of tokens."""

import torch
from torch import Tensor, nn

TINY = torch.finfo(torch.float64).tiny  # a shorter token has no direction


def ends_of(scores: Tensor, k: int) -> Tensor:
    """Return the numbers of the K tokens of the highest scores, then of the K of the lowest, best first, ``(B, 2K)``.

    Args:
        scores: Scores, ``(B, N)``; of equal ones the first come first, as when the top is deployed.
        k: Tokens at each end, 1..N/2.

    Example:
        >>> ends_of(torch.tensor([[3.0, 1.0, 2.0, 3.0, 0.0]]), 2).tolist()
        [[0, 3, 1, 4]]
    """
    order = scores.argsort(dim=-1, stable=True, descending=True)
    return torch.cat([order[..., :k], order[..., -k:]], -1)


def some_of(tokens: Tensor, index: Tensor) -> Tensor:
    """Return some tokens of each image, ``(B, N, D)`` and their numbers ``(B, M)`` -> ``(B, M, D)``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def cosines(tokens: Tensor, index: Tensor) -> Tensor:
    """Return ``cos(x_i, x_j)`` of some tokens of each image, in float64 ``(B, M, M)``; 0 with a token of length 0.

    Args:
        tokens: All tokens, ``(B, N, D)``.
        index: Numbers of those that are compared, ``(B, M)``.
    """
    unit = _unit(some_of(tokens, index))
    return (unit @ unit.mT).clamp(-1, 1)


def mean_cosine(tokens: Tensor, others: Tensor | None = None) -> Tensor:
    """Return the mean cosine of two different tokens of each image, or of one of each set, in float64 ``(B,)``.

    ``(|sum_i u_i|^2 - sum_i |u_i|^2) / (N (N - 1))`` or ``sum_i u_i . sum_j v_j / (N M)``, u and v of length 1:
    no matrix of pairs. NaN for a single token.

    Args:
        tokens: Tokens, ``(B, N, D)``.
        others: Other tokens, ``(B, M, D)``; None: pairs within the first.
    """
    unit, n = _unit(tokens), tokens.shape[1]
    if others is not None:
        return (unit.sum(1) * _unit(others).sum(1)).sum(-1) / (n * others.shape[1])
    return (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / (n * (n - 1) or torch.nan)


def _unit(tokens: Tensor) -> Tensor:
    return nn.functional.normalize(tokens.double(), dim=-1, eps=TINY)

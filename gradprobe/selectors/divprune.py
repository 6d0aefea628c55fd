"""Diversity alone: each further token is the one farthest from those that were chosen."""

import torch
from torch import Tensor
from torch.nn import functional as F


def divprune(tokens: Tensor) -> Tensor:
    """Order tokens by greedy max-min cosine distance, the first of them the one farthest from its nearest neighbour.

    ``i_1 = argmax_i min_{j != i} d_ij``, ``i_{m+1} = argmax_i min_{j <= m} d_{i i_j}``, ``d_ij = 1 - cos(x_i, x_j)``.
    The first K of the order are the K tokens that DivPrune keeps, for every K. Of equal values the first token wins.

    Source: Alvar et al., DivPrune (CVPR 2025), algorithm 1; on the projected tokens.

    Args:
        tokens: ``(B, N, D)``.

    Returns:
        Token numbers ``(B, N)``, the first chosen first.

    Example:
        >>> divprune(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])).tolist()
        [[2, 0, 1]]
    """
    distances = cosine_distances(tokens)
    nearest = distances + torch.diag(distances.new_full(distances.shape[-1:], torch.inf))
    return farthest_first(distances, nearest.amin(-1).argmax(-1))


def cosine_distances(tokens: Tensor) -> Tensor:
    """Return ``1 - cos(x_i, x_j)`` in float64, ``(B, N, D) -> (B, N, N)``."""
    directions = F.normalize(tokens.double(), dim=-1)
    return 1 - directions @ directions.mT


def farthest_first(distances: Tensor, first: Tensor, weights: Tensor | None = None) -> Tensor:
    """Order all tokens greedily by ``argmax_i w_i min_j d_ij`` over the tokens j that come before.

    Args:
        distances: ``(B, N, N)``.
        first: First token of each image, ``(B,)``.
        weights: w, ``(B, N)``; None: all 1.

    Returns:
        Token numbers ``(B, N)``.
    """
    rows = torch.arange(len(distances), device=distances.device)
    order = [first]
    nearest = distances[rows, first]
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    for _ in range(distances.shape[1] - 1):
        taken[rows, order[-1]] = True
        value = nearest if weights is None else nearest * weights
        order.append(value.masked_fill(taken, -torch.inf).argmax(-1))
        nearest = torch.minimum(nearest, distances[rows, order[-1]])
    return torch.stack(order, dim=1)

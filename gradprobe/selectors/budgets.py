"""Budgets of groups of tokens, and the tokens that fill them."""

import torch
from torch import Tensor

from gradprobe.core import top_k
from gradprobe.nans import refuse_nan


def rank_within(scores: Tensor, group: Tensor) -> Tensor:
    """Return the rank of each token among those of its group: 0 for the highest score; of equal ones the first.

    Args:
        scores: ``(B, N)``.
        group: Number of each token's group, ``(B, N)``.

    Raises:
        GradprobeError: Some scores are NaN.

    Example:
        >>> rank_within(torch.tensor([[1.0, 3.0, 2.0, 3.0]]), torch.tensor([[0, 1, 0, 1]])).tolist()
        [[1, 0, 0, 1]]
    """
    order = refuse_nan(scores).argsort(dim=1, descending=True, stable=True)
    grouped = group.gather(1, order)
    by_group = grouped.argsort(dim=1, stable=True)
    order, grouped = order.gather(1, by_group), grouped.gather(1, by_group)
    places = torch.arange(order.shape[1], device=order.device) - torch.searchsorted(grouped, grouped)
    return torch.empty_like(order).scatter_(1, order, places)


def fill(shares: Tensor, group: Tensor, rank: Tensor, k: int) -> Tensor:
    """Keep exactly K tokens, as many of each group as its share: rounded down, then by the largest remainder.

    The token of rank u in group g has the priority ``share_g - u``; the K highest are kept, of equal ones that of the
    first group. A group that is smaller than its share is kept whole, and the others share what is left evenly.

    Args:
        shares: Tokens of each group, not rounded, summing to K, ``(B, G)``.
        group: Number of each token's group, ``(B, N)``.
        rank: Rank of each token in its group, ``(B, N)``.
        k: K.

    Returns:
        Token numbers ``(B, K)``, ascending.

    Example:
        >>> group = torch.tensor([[0, 0, 0, 1, 1, 1]])
        >>> fill(torch.tensor([[2.7, 1.3]]), group, torch.tensor([[0, 1, 2, 2, 1, 0]]), 4).tolist()
        [[0, 1, 2, 5]]
    """
    by_group = group.argsort(dim=1, stable=True)
    priority = shares.gather(1, group) - rank
    return by_group.gather(1, top_k(priority.gather(1, by_group), k)).sort(1).values

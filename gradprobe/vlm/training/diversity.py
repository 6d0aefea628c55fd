"""Diversity of visual tokens: mean cosine of two, and effective rank of all tokens of an image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Diversity:
    """Diversity of the tokens of some images, means over images.

    Attributes:
        cosine: Mean cosine of two different tokens among those that are compared; 1 if all are alike.
        effective_rank: ``exp(-sum_i p_i log p_i)`` with ``p_i`` the squared singular values of all tokens at unit
            length, divided by their sum: 1 if all are alike. Source: Roy and Vetterli (2007), of squares.
    """

    cosine: float
    effective_rank: float


def diversity(tokens: Tensor, compared: Tensor | None = None) -> Diversity:
    """Measure the diversity of tokens ``(B, N, D)``.

    Args:
        tokens: Tokens.
        compared: Tokens whose cosines count, ``(B, N)`` bool, at least two an image; None: all.

    Example:
        >>> diversity(torch.eye(3)[None])
        Diversity(cosine=0.0, effective_rank=3.0)
    """
    directions = F.normalize(tokens.double(), dim=-1)
    among = torch.ones(tokens.shape[:2], dtype=torch.float64) if compared is None else compared.double()
    count = among.sum(1)
    summed = (directions * among[..., None]).sum(1).square().sum(-1)  # of all pairs, those with itself among them
    cosines = (summed - count) / (count * (count - 1))
    powers = torch.linalg.svdvals(directions).square()
    shares = powers / powers.sum(1, keepdim=True)
    entropies = -torch.special.xlogy(shares, shares).sum(1)
    return Diversity(round(float(cosines.mean()), 12), round(float(entropies.exp().mean()), 12))

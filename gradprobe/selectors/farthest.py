"""Greedy farthest-point order by cosine distance, of many tokens without the matrix of all pairs.

The distances of one token to all others are computed when it is chosen: ``O(N K d)`` time and ``O(N)`` memory a step.
Up to `HELD` tokens the matrix is smaller than the tokens; where all pairs are needed for the first choice it is held.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.nans import refuse_nan

BLOCK = 256  # tokens whose distances to all others are held at a time
HELD = 1024  # most tokens whose matrix of pairs is held: 8 MB an image
GRAIN = 2.0**-40  # numbers that differ by less differ by rounding, so that the first of equal tokens wins


def directions_of(tokens: Tensor) -> Tensor:
    """Return tokens scaled to length 1, in float64; a token of zeros stays one.

    Raises:
        GradprobeError: Some tokens are not finite.
    """
    directions = F.normalize(tokens.double(), dim=-1)
    refuse_nan(directions.sum(-1))
    return directions


def snapped(values: Tensor) -> Tensor:
    """Round to multiples of 2^-40, far above the rounding of float64 and below what tells tokens apart.

    Example:
        >>> snapped(torch.tensor([0.5, 1e-15, -3e-16], dtype=torch.float64)).abs().tolist()
        [0.5, 0.0, 0.0]
    """
    return (values / GRAIN).round() * GRAIN


def pairs_of(directions: Tensor) -> Tensor | None:
    """Return the cosines of all pairs, ``(B, N, N)``; None where there are more than `HELD` tokens."""
    return directions @ directions.mT if directions.shape[1] <= HELD else None


def similarities(directions: Tensor, token: Tensor, pairs: Tensor | None = None) -> Tensor:
    """Return the cosine of one token of each image with all, ``(B, N, d), (B,) -> (B, N)``."""
    rows = torch.arange(len(directions), device=directions.device)
    return (directions @ directions[rows, token, :, None])[..., 0] if pairs is None else pairs[rows, token]


def most_isolated(directions: Tensor, pairs: Tensor | None = None) -> Tensor:
    """Return the token that is farthest from its nearest neighbour, ``argmax_i min_{j != i} 1 - cos(x_i, x_j)``.

    Rows of the matrix of all pairs are computed `BLOCK` at a time.

    Args:
        directions: Of length 1, ``(B, N, d)``.
        pairs: Cosines of all pairs, where they are held.

    Returns:
        Token numbers ``(B,)``.

    Example:
        >>> most_isolated(directions_of(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]]))).tolist()
        [2]
    """
    closest = []
    for start in range(0, directions.shape[1], BLOCK):
        some = slice(start, start + BLOCK)
        block = directions[:, some] @ directions.mT if pairs is None else pairs[:, some].clone()
        block.diagonal(start, -2, -1).fill_(-torch.inf)
        closest.append(block.amax(-1))
    return snapped(1 - torch.cat(closest, 1)).argmax(-1)


def farthest_first(
    directions: Tensor, first: Tensor, k: int, weights: Tensor | None = None, pairs: Tensor | None = None
) -> Tensor:
    """Choose K tokens greedily by ``argmax_i w_i min_j (1 - cos(x_i, x_j))`` over the tokens j chosen before.

    The choice for a smaller K is the beginning of that for a larger one. Of equal values the first token wins.

    Args:
        directions: Of length 1, ``(B, N, d)``.
        first: First token of each image, ``(B,)``.
        k: Number of tokens, 1..N.
        weights: w, ``(B, N)``; None: all 1.
        pairs: Cosines of all pairs, where they are held.

    Returns:
        Token numbers ``(B, K)``, the first chosen first.

    Example:
        >>> directions = directions_of(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]]))
        >>> farthest_first(directions, torch.tensor([0]), 3).tolist()
        [[0, 2, 1]]
    """
    order = [first]
    nearest = torch.full(directions.shape[:2], torch.inf, dtype=directions.dtype, device=directions.device)
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    for _ in range(k - 1):
        taken.scatter_(1, order[-1][:, None], True)
        nearest = torch.minimum(nearest, snapped(1 - similarities(directions, order[-1], pairs)))
        value = nearest if weights is None else nearest * weights
        order.append(value.masked_fill(taken, -torch.inf).argmax(-1))
    return torch.stack(order, 1)


def scores_of(order: Tensor) -> Tensor:
    """Return scores of an order of all tokens, float32 ``(B, N)``: N for the first, 1 for the last.

    Example:
        >>> scores_of(torch.tensor([[2, 0, 1]])).tolist()
        [[2.0, 1.0, 3.0]]
    """
    places = torch.arange(order.shape[1], 0, -1, device=order.device, dtype=torch.float32)
    return torch.empty_like(places.expand_as(order)).scatter_(1, order, places.expand_as(order))


def farthest_flops(n: int, width: int, k: int, isolated: bool) -> int:
    """Count the FLOPs of `farthest_first`, and of `most_isolated` before it."""
    steps = 0 if isolated and n <= HELD else k - 1
    return 2 * n * width * (steps + (n if isolated else 0))

"""PruneSID: groups by principal components, and in each group tokens that are not alike."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from gradprobe.selectors.attention import attention_flops, check_query
from gradprobe.selectors.budgets import fill, rank_within
from gradprobe.selectors.farthest import directions_of, snapped
from gradprobe.view import Kept, Query, SelectorAbout, Sizes, View

NOTHING = 1e-10  # of the largest eigenvalue; components below are rounding, and no token belongs to them


@dataclass(frozen=True)
class PruneSID:
    """Keep tokens of every principal component, the most attended of those that are not alike first.

    1. Groups: ``q = max(1, floor(K / 4))`` principal components of the tokens ``sigmoid(x_i)``, each minus the mean of
       its own features; token i belongs to the component c with the largest ``|V_ic|``.
    2. Suppression: in a group, tokens by attention; one that is more similar to an earlier survivor than
       ``K / 32 mean_{i < j} cos(x_i, x_j)`` is suppressed.
    3. Budgets: one token a group, the rest in proportion to its survivors s_c, at most ``min(5 ceil(K / 64), s_c)``;
       where these bounds leave fewer than K, all of them are raised together. Survivors come before suppressed tokens.

    Source: Fang et al., PruneSID (ICLR 2026) and its code; its own budgets are 64, 128 and 192 of 576. Left out: the
    ratio that depends on the image, and the class token among the K. Done otherwise: exact components in place of
    randomised ones, which would differ from call to call; proportions are rounded by the largest remainder, and what a
    group cannot hold goes to the others evenly; tokens stay in order. Similarities of all pairs are held, ``N x N``.
    Default positions: compact.

    Attributes:
        query: ``class``, attention of the class token, or ``mean``, of all patches on average.

    Example:
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Tower, TowerLayer
        >>> rows = torch.tensor([[[1.0], [3.0], [2.9], [2.0], [1.0]]])  # the class token, then four patches
        >>> layer = TowerLayer(rows, rows, heads=1, prefix=1)
        >>> tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.9, 0.0]]])
        >>> view = View(Noise(0, (0,)), tokens, make_tower=lambda: Tower(layer, layer))
        >>> PruneSID()(view, 2).index.tolist()
        [[0, 2]]
    """

    query: Query = "class"
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "groups argmax_c |V_ic| of principal components; in each the most attended with cos <= K / 32 mean cos",
        "PruneSID, ICLR 2026, arXiv 2603.09480",
        ("prunesid",),
        positions="compact",
    )

    def __post_init__(self) -> None:
        check_query("prunesid", self.query)

    def __call__(self, view: View, k: int) -> Kept:
        """Return the tokens of all groups."""
        x, attention = view.features.double(), view.tower.last.attention(self.query)
        n = x.shape[1]
        groups = max(1, k // 4)
        z = directions_of(x)
        group = component_of(x.sigmoid(), groups)
        cosine = snapped(z @ z.mT)
        mean = (cosine.sum((1, 2)) - cosine.diagonal(0, 1, 2).sum(1)) / max(1, n * (n - 1))
        alive = survivors(cosine, attention, group, snapped(k / 32 * mean))
        by_attention = rank_within(attention, torch.zeros_like(group))
        rank = rank_within(torch.where(alive, n - by_attention, -by_attention), group)

        none = torch.zeros(len(x), groups, dtype=torch.float64, device=x.device)
        count = none.scatter_add(1, group, alive.double())
        present = (count > 0).double()  # the first token of a group survives
        rest = (k - present.sum(1, keepdim=True)) * count / count.sum(1, keepdim=True)
        bound = count.clamp(max=5 * ceil(k / 64)).gather(1, group)
        raised = (rank - bound + 1).clamp(min=0)  # rounds of raising all bounds before this token fits
        return Kept(fill(present + rest, group, rank + (n + k + 1) * raised, k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of attention, similarities and the components' matrix, without its eigenvectors."""
        n, d = sizes.n, sizes.dim
        components = 2 * n * n * d if n <= d else 2 * n * d * (d + min(max(1, k // 4), d))
        return attention_flops(sizes, self.query) + 2 * n * n * d + components


def component_of(tokens: Tensor, count: int) -> Tensor:
    """Return the principal component in which each token weighs most, ``argmax_c |V_ic|``.

    V are the right singular vectors of the matrix of features by tokens, each token minus its mean; they come from the
    smaller of its two matrices of products.

    Args:
        tokens: float64 ``(B, N, D)``.
        count: Number of components.

    Returns:
        Numbers ``(B, N)``, 0 the component of the largest singular value.
    """
    y = snapped(tokens - tokens.mean(-1, keepdim=True))
    n, d = y.shape[1:]
    values, vectors = torch.linalg.eigh(y @ y.mT if n <= d else y.mT @ y)
    values, vectors = values[:, -count:].flip(1), vectors[..., -count:].flip(-1)
    nothing = values <= NOTHING * values[:, :1]
    if n > d:
        vectors = (y @ vectors) * values.clamp(min=1e-300).rsqrt()[:, None]
    return vectors.abs().masked_fill(nothing[:, None], -1).argmax(-1)


def survivors(cosine: Tensor, scores: Tensor, group: Tensor, limit: Tensor) -> Tensor:
    """Return the tokens that non-maximum suppression within groups leaves, ``(B, N)`` bool.

    In each round every group's token of the highest score, of those left, survives and suppresses those of its group
    with a higher similarity than the limit.

    Args:
        cosine: Similarities, ``(B, N, N)``.
        scores: ``(B, N)``.
        group: Number of each token's group, ``(B, N)``.
        limit: ``(B,)``.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = order.argsort(1)
    n = place.shape[1]
    left, alive = torch.ones_like(place, dtype=torch.bool), torch.zeros_like(place, dtype=torch.bool)
    while left.any():
        first = torch.full_like(place, n).scatter_reduce(1, group, place.where(left, n), "amin").gather(1, group)
        chosen = order.gather(1, first.clamp(max=n - 1))  # of each token's group
        alive |= left & (place == first)
        similar = cosine.gather(2, chosen[..., None])[..., 0] > limit[:, None]
        left &= (place != first) & ~similar
    return alive

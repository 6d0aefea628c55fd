"""Diversity alone: each further token is the one farthest from those that were chosen."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradprobe.selectors.farthest import (
    directions_of,
    farthest_first,
    farthest_flops,
    most_isolated,
    pairs_of,
    scores_of,
)
from gradprobe.view import Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class DivPrune:
    """Keep K tokens by greedy max-min cosine distance, the first of them the one farthest from its nearest neighbour.

    ``i_1 = argmax_i min_{j != i} d_ij``, ``i_{m+1} = argmax_i min_{j <= m} d_{i i_j}``, ``d_ij = 1 - cos(z_i, z_j)`` of
    projected tokens z. The choices for all K are nested.

    Source: Alvar et al., DivPrune (CVPR 2025), algorithm 1; its own budget is 0.098 N. Done otherwise: distances in
    float64, rounded to 2^-40, so that of tokens that rounding alone tells apart the first wins; no matrix of all pairs
    beyond 1,024 tokens. Default positions: compact.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
        >>> DivPrune()(View(Noise(0, (0,)), tokens), 2).index.tolist()
        [[0, 2]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout(
        "i_1 = argmax_i min_j d_ij, then argmax_i min_{j chosen} d_ij, d = 1 - cos of projected tokens",
        "DivPrune, CVPR 2025, arXiv 2503.02175",
        ("divprune",),
        positions="compact",
    )

    def scores(self, view: View) -> Tensor:
        """Return N for the token that comes first, 1 for the one that comes last, ``(B, N)``."""
        return scores_of(self._order(view, view.shape[1]))

    def __call__(self, view: View, k: int) -> Kept:
        """Return the first K tokens of the order."""
        return Kept(self._order(view, k).sort(1).values)

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of projecting all tokens, of all pairs for the first one, and of N pairs a step.

        Up to 1,024 tokens the pairs are held, and a step has none to compute.
        """
        return sizes.n * sizes.projector + farthest_flops(sizes.n, sizes.width, k, isolated=True)

    def _order(self, view: View, k: int) -> Tensor:
        directions = directions_of(view.projected)
        pairs = pairs_of(directions)
        return farthest_first(directions, most_isolated(directions, pairs), k, pairs=pairs)

"""HoloV: budgets of stretches of the image in proportion to their attention."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.selectors.attention import attention_flops, check_query
from gradprobe.selectors.budgets import fill, rank_within
from gradprobe.selectors.farthest import directions_of, snapped
from gradprobe.view import Kept, Query, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class HoloV:
    """Keep tokens of every crop, as many as its share of the attention, and in a crop those of the highest score.

    Tokens in raster order are cut into equal crops (the first of them one longer where it does not come out even). In
    crop c, a is the attention, ``v_i = Var_{j != i} cos(z_i, z_j)`` the variety of projected tokens z over its other
    tokens, scaled to the mean of a: ``h_i = a_i + variety v_i mean(a) / mean(v)``. A crop's share of K is that of its
    mean h.

    Scaled in each crop, v has the mean of a: the share is that of the mean attention whatever the variety, and v counts
    within a crop alone, where the released code ranks by a and the paper's formula is h with the weight 1. The default
    is the code: no similarity is computed at all.

    Source: Zou et al., HoloV (NeurIPS 2025) and its code; its own budgets are 64, 128 and 192 of 576. Left out:
    fetching dropped tokens back, and the exponent of the shares. Done otherwise: shares are rounded by the largest
    remainder, and what a crop cannot hold goes to the others (the code pads with zeros or cuts off), so that exactly K
    are kept; the variance leaves out the token itself, which the code counts as 0. Default positions: compact.

    Attributes:
        crops: Number of crops, at most N.
        query: ``class``, attention of the class token, or ``mean``, of all patches on average.
        variety: Weight of v within a crop: 0 in the released code, 1 in the paper.

    Example:
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Tower, TowerLayer
        >>> rows = torch.tensor([[[1.0], [3.0], [2.9], [2.0], [1.0]]])  # the class token, then four patches
        >>> layer = TowerLayer(rows, rows, heads=1, prefix=1)
        >>> view = View(Noise(0, (0,)), torch.zeros(1, 4, 2), make_tower=lambda: Tower(layer, layer))
        >>> HoloV(crops=2)(view, 3).index.tolist()
        [[0, 1, 2]]
    """

    crops: int = 16
    query: Query = "class"
    variety: float = 0.0
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "crop c of the raster keeps K mean_c(a) / sum_c mean_c(a) tokens of the highest a + w v, a attention",
        "HoloV, NeurIPS 2025, arXiv 2510.02912",
        ("holov",),
        positions="compact",
    )

    def __post_init__(self) -> None:
        check_query("holov", self.query)
        if self.crops < 1:
            raise UsageError(f"holov:crops={self.crops}: there must be at least one, e.g. holov:crops=16")
        if not 0 <= self.variety < float("inf"):
            raise UsageError(f"holov:variety={self.variety:g}: it must be 0 or more, e.g. holov:variety=1")

    def __call__(self, view: View, k: int) -> Kept:
        """Return the tokens of all crops."""
        attention = view.tower.last.attention(self.query).double()
        b, n = attention.shape
        places = _crops(n, min(self.crops, n)).to(attention.device)
        inside = places < n
        count = inside.sum(-1)
        a = _cut(attention[..., None], places)[..., 0]
        mean = a.sum(-1) / count  # (B, crops)
        scores = a + self.variety * self._variety(view, places, mean) if self.variety else a
        group = torch.arange(len(places), device=a.device).repeat_interleave(count).expand(b, n)
        shares = k * mean / mean.sum(-1, keepdim=True).clamp(min=1e-300)
        return Kept(fill(shares, group, rank_within(scores[:, inside], group), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of the attention and, with a variety, of projecting all tokens and of pairs in each crop."""
        if not self.variety:
            return attention_flops(sizes, self.query)
        crops = min(self.crops, sizes.n)
        pairs = crops * (-(-sizes.n // crops)) ** 2
        return attention_flops(sizes, self.query) + sizes.n * sizes.projector + 2 * pairs * sizes.width

    @staticmethod
    def _variety(view: View, places: Tensor, mean: Tensor) -> Tensor:
        """Return v scaled to the mean attention of each crop, ``(B, crops, m)``; 0 where all tokens are alike."""
        inside = places < view.shape[1]
        z = _cut(directions_of(view.projected), places)
        same = torch.eye(places.shape[1], dtype=torch.bool, device=z.device)
        pair = inside[:, :, None] & inside[:, None] & ~same
        cosine, others = (z @ z.mT).where(pair, 0), pair.sum(-1).clamp(min=1)
        centre = cosine.sum(-1) / others
        v = snapped(((cosine - centre[..., None]).square() * pair).sum(-1) / others)
        average = v.sum(-1) / inside.sum(-1)
        return v * (mean / average.clamp(min=1e-300))[..., None]


def _crops(n: int, crops: int) -> Tensor:
    """Return the token numbers of equal crops, ``(crops, m)``, filled up with N.

    Example:
        >>> _crops(5, 2).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    lengths = torch.full((crops,), n // crops)
    lengths[: n % crops] += 1
    within = torch.arange(-(-n // crops))
    return torch.where(within < lengths[:, None], lengths.cumsum(0)[:, None] - lengths[:, None] + within, n)


def _cut(x: Tensor, places: Tensor) -> Tensor:
    """Cut tokens into crops, ``(B, N, D) -> (B, crops, m, D)``; places number N are 0."""
    return torch.cat([x, x.new_zeros(len(x), 1, x.shape[-1])], 1)[:, places]

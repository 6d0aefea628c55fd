"""HiRED: budgets of the tiles of a high-resolution image by the attention in its overview."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradprobe.core import top_k
from gradprobe.errors import UsageError
from gradprobe.selectors.attention import attention_flops
from gradprobe.selectors.budgets import fill, rank_within
from gradprobe.view import Kept, SelectorAbout, Sizes, TowerLayer, Unavailable, View


@dataclass(frozen=True)
class HiRED:
    """Keep the most attended tokens of each picture of an image, the overview's and its tiles'.

    The overview gets ``min(floor(alpha K), its tokens)``. Of its tokens, the ``floor((1 - alpha) N_0)`` to which the
    class token attends most in the tower's first layer are the content; the tiles share what is left of K in proportion
    to the content in the area that each of them shows. In each picture, tokens are kept by attention of the class token
    in the layer that the tokens come from. An image of one picture gives it the whole budget.

    Source: Arif et al., HiRED (AAAI 2025) and its code; its own budgets are shares of N, such as 0.2. Done otherwise:
    shares are rounded by the largest remainder, and what a picture cannot hold goes to the others, so that exactly K
    are kept (the code drops what is left over); padding is no part of a tile; a tile's area is taken from the geometry
    of the picture, where the code cuts the overview's raster into stretches of equal length. Default positions:
    compact.

    Attributes:
        alpha: Share of the overview, 0..1.

    Example:
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Tower
        >>> rows = torch.tensor([[[1.0], [3.0], [2.9], [2.0], [1.0]]])  # the class token, then four patches
        >>> layer = TowerLayer(rows, rows, heads=1, prefix=1)
        >>> view = View(Noise(0, (0,)), torch.zeros(1, 4, 2), make_tower=lambda: Tower(layer, layer))
        >>> HiRED()(view, 2).index.tolist()
        [[0, 1]]
    """

    alpha: float = 0.5
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "overview: alpha K; tiles in proportion to its most attended tokens (first layer); in each: top attention",
        "HiRED, AAAI 2025, arXiv 2408.10945",
        ("hired",),
        positions="compact",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"hired:alpha={self.alpha:g}: it must be from 0 to 1, e.g. hired:alpha=0.5")

    def __call__(self, view: View, k: int) -> Kept:
        """Return the tokens of all pictures."""
        attention = view.tower.last.attention("class")
        picture = pictures_of(view.tower.last, attention.shape[1])
        if picture is None or not picture.any():
            return Kept(top_k(attention, k))
        shares = self._shares(view, picture.expand_as(attention), k)
        picture = picture.expand_as(attention).contiguous()
        return Kept(fill(shares, picture, rank_within(attention, picture), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of one row of queries in two layers; an image of one picture needs the last alone."""
        return attention_flops(sizes, "class") * (2 if sizes.pictures > 1 else 1)

    def _shares(self, view: View, picture: Tensor, k: int) -> Tensor:
        """Return the tokens of each picture, not rounded, ``(B, pictures)``."""
        if len(view.grids) != 2 or sum(rows * columns for rows, columns in view.grids) != picture.shape[1]:
            raise Unavailable(
                f"hired needs images of one picture, or of an overview and a mosaic of tiles; these have the grids "
                f"{', '.join(f'{rows} x {columns}' for rows, columns in view.grids) or 'of no known size'}"
            )
        (rows, columns), (high, wide) = view.grids
        overview = rows * columns
        content = view.tower.first.attention("class")[:, :overview]
        top = top_k(content, max(1, int((1 - self.alpha) * overview)))
        row, column = top // columns, top % columns
        shown = overview + (2 * row + 1) * high // (2 * rows) * wide + (2 * column + 1) * wide // (2 * columns)
        tile = picture.gather(1, shown)
        counts = torch.zeros(len(tile), int(picture.max()) + 1, dtype=torch.float64, device=tile.device)
        counts = counts.scatter_add(1, tile, torch.ones_like(tile, dtype=torch.float64))
        first = min(int(k * self.alpha), overview)
        shares = (k - first) * counts / counts.sum(1, keepdim=True)
        shares[:, 0] += first
        return shares


def pictures_of(layer: TowerLayer, n: int) -> Tensor | None:
    """Return the number of each token's picture within its image, ``(B, N)``; None where every image is one picture."""
    if layer.rows is None:
        return None
    picture = layer.rows // (layer.keys.shape[1] - layer.prefix)
    return picture - picture[:, :1]

"""Images as selectors see them, made up: random, all tokens alike, every token twice, tiles."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradprobe.core import Noise
from gradprobe.view import Grid, Sizes, Tower, TowerLayer, View, Words

D, HIDDEN, WIDTH, HEADS, TOWER, TEXT = 12, 16, 10, 2, 8, 5


class Projector(nn.Module):
    """Linear, GELU, linear, with the attribute that exact sensitivities read."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Linear(D, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH)).to(dtype)

    def forward(self, tokens):
        return self.layers(tokens)


@dataclass(frozen=True)
class Images:
    """Parts of a view; the pictures of each image apart, so that images can be taken out of a batch.

    Attributes:
        tokens: ``(B, N, D)``.
        tower: Queries and keys of the last layer, then of the first, each ``(B, pictures, 1 + R, width)``.
        words: ``(B, T, d)``.
        ids: One an image.
        grids: As in a view.
        rows: Row of each token among those of the image's own pictures, ``(N,)``.
        projector: As in a view.
    """

    tokens: Tensor
    tower: tuple[Tensor, ...]
    words: Tensor
    ids: tuple[int, ...]
    grids: tuple[Grid, ...]
    rows: Tensor | None
    projector: nn.Module

    def view(self, **changes):
        last, first = (self._layer(*self.tower[i : i + 2]) for i in (0, 2))
        mask = torch.arange(TEXT) < torch.tensor([3 + i % 3 for i in self.ids])[:, None]
        parts = {
            "noise": Noise(0, self.ids), "given": self.tokens, "projector": self.projector, "grids": self.grids,
            "make_tower": lambda: Tower(last, first), "make_words": lambda: Words(self.words, mask),
        }  # fmt: skip
        return View(**(parts | changes))

    def taken(self, *which):
        tower = tuple(x[list(which)] for x in self.tower)
        ids = tuple(self.ids[i] for i in which)
        return replace(self, tokens=self.tokens[list(which)], tower=tower, words=self.words[list(which)], ids=ids)

    def turned(self, turn):
        """The same tokens in another order; their picture's attention with them."""
        tower = tuple(torch.cat([x[:, :, :1], x[:, :, 1:][:, :, turn]], 2) for x in self.tower)
        return replace(self, tokens=self.tokens[:, turn], tower=tower)

    @property
    def sizes(self):
        projector = 2 * HIDDEN * (D + WIDTH)
        pictures, positions = self.tower[0].shape[1:3]
        return Sizes(
            self.tokens.shape[1], D, WIDTH, projector, tower_width=TOWER, tower_heads=HEADS, patches=positions,
            pictures=pictures, text=TEXT,
        )  # fmt: skip

    def _layer(self, queries, keys):
        b, pictures, positions, _ = queries.shape
        rows = None if self.rows is None else self.rows + torch.arange(b)[:, None] * pictures * (positions - 1)
        return TowerLayer(queries.flatten(0, 1), keys.flatten(0, 1), HEADS, 1, rows=rows)


def images(kind="random", b=3, n=24, dtype=torch.float32, seed=0):
    """Make images: ``random``, ``constant`` (all tokens alike), ``zeros``, ``twice`` (the second half as the first)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        x = torch.randn(*shape, generator=generator)
        return ((4 * x).round() / 4).to(dtype)  # sums of products are exact: what is equal is equal to the last bit

    tokens, rest = 2 * draw(b, n, D), [draw(b, 1, 1 + n, TOWER) for _ in range(4)]
    if kind in ("constant", "zeros"):
        tokens = tokens[:, :1].expand(-1, n, -1).clone() * (kind == "constant")
        rest = [torch.cat([x[:, :, :1], x[:, :, 1:2].expand(-1, -1, n, -1)], 2) for x in rest]
    if kind == "twice":
        half = torch.arange(n) % max(1, n // 2)
        tokens, rest = tokens[:, half], [torch.cat([x[:, :, :1], x[:, :, 1:][:, :, half]], 2) for x in rest]
    grids = ((4, n // 4),) if n % 4 == 0 else ()
    return Images(tokens, tuple(rest), draw(b, TEXT, WIDTH), tuple(range(7, 7 + b)), grids, None, Projector(dtype))


def tiled(b=2, dtype=torch.float32, seed=0):
    """Make images of an overview of 4 x 4 tokens and 2 x 2 tiles, whose mosaic lost its first line and its last."""
    one = images(b=b, n=16 + 6 * 8, dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    tower = tuple(torch.randn(b, 5, 17, TOWER, generator=generator).to(dtype) for _ in range(4))
    row, column = torch.arange(1, 7)[:, None], torch.arange(8)
    mosaic = (1 + row // 4 * 2 + column // 4) * 16 + row % 4 * 4 + column % 4
    rows = torch.cat([torch.arange(16), mosaic.flatten()])
    return replace(one, tower=tower, grids=((4, 4), (6, 8)), rows=rows)

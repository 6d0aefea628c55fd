"""Evenly spaced tokens: what is left of an image that is sampled more coarsely."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar

import torch

from gradprobe.view import Grid, Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class Downsample:
    """Keep K tokens at evenly spaced places of the grid, the same ones in every image.

    A grid of R x C gets r lines, r the whole number nearest to ``sqrt(K R / C)``; the K tokens are spread over the
    lines as evenly as whole numbers allow, and lines, and tokens in a line, stand in the middle of equal stretches.
    Pictures of an image share K in proportion to their tokens. Where the grid is unknown, or some of its tokens are
    gone already, the tokens are one line.

    A control that users of FasterVLM and VTC-Bench ask for: a method that does not beat it has found nothing in the
    image. Left out: pooling. Tokens are sampled and not averaged, so that the control differs from the other selectors
    in the choice of tokens alone, and can be asked within a language model. Choices for different K are not nested.
    Default positions: keep.

    Example:
        >>> from gradprobe.core import Noise
        >>> view = View(Noise(0, (0,)), torch.zeros(1, 16, 2), grids=((4, 4),))
        >>> Downsample()(view, 4).index.tolist()
        [[5, 7, 13, 15]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout("evenly spaced places of the grid")

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the places."""
        b, n = view.shape
        like = view.projected if view.given is None else view.given
        grids = view.grids if sum(rows * columns for rows, columns in view.grids) == n else ((1, n),)
        places, start = [], 0
        for (rows, columns), each in zip(grids, _shares(grids, k), strict=True):
            places += [start + row * columns + column for row, column in spaced((rows, columns), each)]
            start += rows * columns
        return Kept(torch.tensor(places, device=like.device).expand(b, k).clone())

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return 0: no token is looked at."""
        return 0


def spaced(grid: Grid, k: int) -> list[tuple[int, int]]:
    """Return K evenly spaced places of a grid, line by line.

    Args:
        grid: R rows and C columns.
        k: 0..R C.

    Example:
        >>> spaced((2, 3), 4)
        [(0, 0), (0, 2), (1, 0), (1, 2)]
    """
    rows, columns = grid
    lines = max(1, min(rows, k, max(round(sqrt(k * rows / columns)), ceil(k / columns))))
    places = []
    for line in range(lines):
        count = (line + 1) * k // lines - line * k // lines
        row = _middle(line, lines, rows)
        places += [(row, _middle(i, count, columns)) for i in range(count)]
    return places


def _middle(i: int, parts: int, length: int) -> int:
    """Return the place in the middle of the i-th of equal parts of a line."""
    return (2 * i + 1) * length // (2 * parts)


def _shares(grids: Sequence[Grid], k: int) -> list[int]:
    """Return the tokens kept of each picture, in proportion to its tokens, then by the largest remainder."""
    sizes = [rows * columns for rows, columns in grids]
    whole = [k * size // sum(sizes) for size in sizes]
    remainders = [k * size % sum(sizes) for size in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: -remainders[i])[: k - sum(whole)]:
        whole[i] += 1
    return whole

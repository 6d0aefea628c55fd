"""Pictures that are cut into square tiles, which the vision tower and the language model read one after another."""

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import Layout, Size, View


def tiled_layout(size: Size, mosaic: Size, side: int, across: int, grid: Size, class_tokens: int = 0) -> Layout:
    """Return the layout of tiles, row by row, and of an overview behind them where there are several.

    Args:
        size: Height and width of the picture.
        mosaic: Rows and columns of tiles.
        side: Pixels along a side of a tile.
        across: Patches along a side of a tile.
        grid: Rows and columns of a tile's visual tokens.
        class_tokens: Positions of the tower beside the patches of a tile.
    """
    rows, columns = mosaic
    tiles = rows * columns + (rows * columns > 1)
    return Layout(size, (rows * side, columns * side), tiles, across**2, class_tokens, (grid,) * tiles, 0)


def tile_views(tiles: Tensor, grid: Size) -> tuple[View, ...]:
    """Return the tiles ``(T, 3, H, W)`` of a picture, the overview last, as pictures of their own."""
    titles = [*(f"tile {number}" for number in range(1, len(tiles))), "overview"] if len(tiles) > 1 else [""]
    return tuple(View(title, tile, grid) for title, tile in zip(titles, tiles, strict=True))


def runs_of(row: Sequence[int], token: int) -> list[tuple[int, int]]:
    """Return the first place of each run of a token in a row of ids, and the place behind its last.

    Example:
        >>> runs_of([5, 9, 9, 5, 9], 9)
        [(1, 3), (4, 5)]
    """
    runs, place = [], 0
    for same, run in groupby(row, lambda each: each == token):
        end = place + len(list(run))
        if same:
            runs.append((place, end))
        place = end
    return runs


def check_lengths(lengths: Sequence[int], parts: Sequence[int], tile: int) -> Sequence[int]:
    """Return the placeholders of each picture, if they are whole tiles and as many as there are.

    Raises:
        UsageError: They are not.
    """
    if sum(lengths) != sum(parts) or any(length % tile for length in lengths):
        raise UsageError(
            f"the prompt has places for {', '.join(map(str, lengths)) or 'no'} image tokens, its images are "
            f"{sum(parts) // tile} tiles of {tile}; make text and images with the processor of this model, in one call"
        )
    return lengths

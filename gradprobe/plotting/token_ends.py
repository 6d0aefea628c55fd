"""The first and the last tokens of an image in a ranking, and the matrix of their similarities."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle

from gradprobe.plotting.style import BLACK, BLUE, GREY, VERMILION

FADE, OPACITY = 0.45, 0.5  # of the picture towards white, and of the colour on a token
BAND = 0.035  # breadth of a band along the matrix, as a share of its side
TOP, BOTTOM = VERMILION, BLUE
DIVERGING = "PRGn"  # of cosines: neither red nor blue, which are those of the two ends


def draw_tokens(axes: Axes, image: np.ndarray, grid: tuple[int, int], ends: Sequence[np.ndarray]) -> None:
    """Draw a faded picture with two sets of its tokens coloured and outlined.

    Args:
        axes: Place.
        image: Pixels, ``(H, W, 3)`` in [0, 1].
        grid: Rows and columns of tokens.
        ends: Numbers of the first tokens and of the last; those outside the grid are another picture's.
    """
    height, width = image.shape[:2]
    extent = (0.0, float(width), float(height), 0.0)
    axes.imshow(FADE + (1 - FADE) * image, extent=extent, interpolation="none")
    for numbers, colour in zip(ends, (TOP, BOTTOM), strict=True):
        here = np.zeros(grid, dtype=bool)
        here.flat[numbers[(numbers >= 0) & (numbers < here.size)]] = True
        paint = np.zeros((*grid, 4))
        paint[here] = (*to_rgb(colour), OPACITY)
        axes.imshow(paint, extent=extent, interpolation="none")
        scale = np.array([width / grid[1], height / grid[0]])
        axes.add_collection(LineCollection(list(_outline(here) * scale), colors=colour, linewidths=0.7))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.3)


def draw_similarity(axes: Axes, similarity: np.ndarray) -> AxesImage:
    """Draw the similarities of [top; bottom] with a band of colour along each block; white is no similarity.

    Args:
        axes: Place.
        similarity: ``(2K, 2K)``, of -1 to 1.
    """
    size = len(similarity)
    k = size // 2
    drawn = axes.imshow(similarity, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="none", extent=(0, size, size, 0))
    axes.axhline(k, color=BLACK, linewidth=0.8)
    axes.axvline(k, color=BLACK, linewidth=0.8)
    band = BAND * size
    for first, colour in ((0, TOP), (k, BOTTOM)):  # along both sides
        axes.add_patch(Rectangle((first, -1.4 * band), k, band, color=colour, clip_on=False, linewidth=0))
        axes.add_patch(Rectangle((-1.4 * band, first), band, k, color=colour, clip_on=False, linewidth=0))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.3)
    return drawn


def legend_of_ends(k: int) -> list[Patch]:
    """Return the entries of a legend of both ends."""
    return [
        Patch(facecolor=(*to_rgb(colour), OPACITY), edgecolor=colour, label=f"{word} {k}")
        for word, colour in (("top", TOP), ("bottom", BOTTOM))
    ]


def _outline(here: np.ndarray) -> np.ndarray:
    """Return the edges between cells inside and outside a set, as segments ``(edges, 2, 2)`` of (column, row)."""
    framed = np.pad(here, 1)
    row, column = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    flat = np.stack([np.stack([column, row], -1), np.stack([column + 1, row], -1)], 1)
    row, column = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    upright = np.stack([np.stack([column, row], -1), np.stack([column, row + 1], -1)], 1)
    return np.concatenate([flat, upright])

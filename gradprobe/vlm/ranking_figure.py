"""Figure 5: the first and the last tokens of an image in a ranking, and their similarities within and across."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle

from gradprobe.plotting.columns import number
from gradprobe.plotting.style import BLUE, GREY, PAGE, VERMILION, look

if TYPE_CHECKING:  # without torch
    from gradprobe.vlm.families.base import View

FADE, OPACITY = 0.45, 0.5  # of the picture towards white, and of the colour on a token
BAND = 0.035  # breadth of a band along the matrix, as a share of its side


def ranking_figure(
    views: Sequence["View"],
    top: np.ndarray,
    bottom: np.ndarray,
    similarity: np.ndarray,
    means: Mapping[str, float | None],
    title: str = "",
) -> Figure:
    """Draw an image with its K highest tokens in red and its K lowest in blue, and the similarities of [top; bottom].

    Args:
        views: Pictures that the tokens cover; LLaVA-NeXT has two, its overview and its tiles.
        top: Numbers of the K highest tokens.
        bottom: Numbers of the K lowest.
        similarity: ``(2K, 2K)``.
        means: ``top``, ``bottom`` and ``across``: mean similarity of different tokens.
        title: Above the pictures.
    """
    widths = [view.image.shape[1] / view.image.shape[0] for view in views]
    height = (PAGE - 0.8) / (sum(widths) + 1.07)  # of the pictures and of the matrix alike
    with look():
        figure = Figure(figsize=(PAGE, height + 1.0))
        *axes, matrix = figure.subplots(1, len(views) + 1, width_ratios=[*widths, 1])
        first = 0
        for each, view in zip(axes, views, strict=True):
            _tokens(each, view.image, view.grid, [np.asarray(end) - first for end in (top, bottom)])
            each.set_title(" · ".join(filter(None, ("" if first else title, view.title))))
            first += view.grid[0] * view.grid[1]
        drawn = _matrix(matrix, similarity, means)
        matrix.set_title("cosine similarity", pad=1.4 * BAND * 72 * height + 5)
        bar = matrix.inset_axes((1.03, 0, 0.04, 1))
        figure.colorbar(drawn, cax=bar)
        bar.tick_params(length=2)
        bar.spines[:].set_visible(False)
        k = len(top)
        handles = [
            Patch(facecolor=(*to_rgb(colour), OPACITY), edgecolor=colour, label=f"{word} {k}")
            for word, colour in (("top", VERMILION), ("bottom", BLUE))
        ]
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0.4}
        axes[0].legend(handles=handles, ncols=2, handlelength=1.2, borderpad=0, **place)
    return figure


def means_lines(means: Mapping[str, float | None], k: int, n: int) -> list[str]:
    """Describe the similarities at each end of the ranking in lines for the terminal."""
    top, bottom, across = (number(means[name], 3) for name in ("top", "bottom", "across"))
    return [
        f"mean cosine similarity of two different tokens before the projector, {k} of {n} tokens at each end:",
        f"  within the top {k}: {top}; within the bottom {k}: {bottom}; across: {across}",
    ]


def _tokens(axes: Axes, image: np.ndarray, grid: tuple[int, int], ends: Sequence[np.ndarray]) -> None:
    """Draw a faded picture with two sets of its tokens coloured and outlined."""
    height, width = image.shape[:2]
    extent = (0.0, float(width), float(height), 0.0)
    axes.imshow(FADE + (1 - FADE) * image, extent=extent, interpolation="none")
    for numbers, colour in zip(ends, (VERMILION, BLUE), strict=True):
        here = np.zeros(grid, dtype=bool)
        here.flat[numbers[(numbers >= 0) & (numbers < here.size)]] = True
        paint = np.zeros((*grid, 4))
        paint[here] = (*to_rgb(colour), OPACITY)
        axes.imshow(paint, extent=extent, interpolation="none")
        scale = np.array([width / grid[1], height / grid[0]])
        axes.add_collection(LineCollection(list(_outline(here) * scale), colors=colour, linewidths=0.7))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.3)


def _outline(here: np.ndarray) -> np.ndarray:
    """Return the edges between cells inside and outside a set, as segments ``(edges, 2, 2)`` of (column, row)."""
    framed = np.pad(here, 1)
    row, column = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    flat = np.stack([np.stack([column, row], -1), np.stack([column + 1, row], -1)], 1)
    row, column = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    upright = np.stack([np.stack([column, row], -1), np.stack([column, row + 1], -1)], 1)
    return np.concatenate([flat, upright])


def _matrix(axes: Axes, similarity: np.ndarray, means: Mapping[str, Any]) -> AxesImage:
    """Draw the similarities with a band of colour along each block."""
    size = len(similarity)
    k = size // 2
    low = min(0.0, float(similarity.min()))
    drawn = axes.imshow(similarity, cmap="viridis", vmin=low, vmax=1, interpolation="none", extent=(0, size, size, 0))
    axes.axhline(k, color="white", linewidth=1)
    axes.axvline(k, color="white", linewidth=1)
    band = BAND * size
    for first, colour in ((0, VERMILION), (k, BLUE)):  # along both sides
        axes.add_patch(Rectangle((first, -1.4 * band), k, band, color=colour, clip_on=False, linewidth=0))
        axes.add_patch(Rectangle((-1.4 * band, first), band, k, color=colour, clip_on=False, linewidth=0))
    labels = [f"{name} {k}\nmean {number(means[name])}" for name in ("top", "bottom")]
    axes.set_xticks([k / 2, 1.5 * k], labels)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"top with bottom: mean {number(means['across'])}", color=GREY)
    return drawn

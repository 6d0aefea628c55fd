"""Figure 5: the first and the last tokens of an image in a ranking, and their similarities within and across."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradprobe.plotting.columns import number
from gradprobe.plotting.style import GREY, PAGE, look
from gradprobe.plotting.token_ends import BAND, draw_similarity, draw_tokens, legend_of_ends

if TYPE_CHECKING:  # without torch
    from gradprobe.vlm.families.base import View

SIDE_BY_SIDE = 2  # pictures in one row with the matrix
MATRIX = 2.2  # inches, beside tiles


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
    with look():
        figure, axes, matrix, height = _places(views)
        first, tiled = 0, len(views) > SIDE_BY_SIDE
        if len(views) > 1:
            figure.suptitle(title, x=0.01, ha="left")
        for each, view in zip(axes, views, strict=True):
            draw_tokens(each, view.image, view.grid, [np.asarray(end) - first for end in (top, bottom)])
            each.set_title(
                view.title if len(views) > 1 else title, fontsize=6 if tiled else None, pad=2 if tiled else None
            )
            first += view.grid[0] * view.grid[1]
        drawn, k = draw_similarity(matrix, similarity), len(top)
        matrix.set_xticks([k / 2, 1.5 * k], [f"{name} {k}\nmean {number(means[name])}" for name in ("top", "bottom")])
        matrix.tick_params(length=0)
        matrix.set_xlabel(f"top with bottom: mean {number(means['across'])}", color=GREY)
        matrix.set_title("cosine similarity", pad=1.4 * BAND * 72 * height + 5)
        bar = matrix.inset_axes((1.03, 0, 0.04, 1))
        figure.colorbar(drawn, cax=bar)
        bar.tick_params(length=2)
        bar.spines[:].set_visible(False)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0.4}
        if tiled:
            figure.legend(handles=legend_of_ends(k), ncols=2, handlelength=1.2, borderpad=0, loc="outside lower left")
        else:
            axes[0].legend(handles=legend_of_ends(k), ncols=2, handlelength=1.2, borderpad=0, **place)
    return figure


def _places(views: Sequence["View"]) -> tuple[Figure, list[Axes], Axes, float]:
    """Return a figure, a place for each picture and one for the matrix, and the matrix's height in inches.

    A few pictures stand side by side; more of them are tiles, in rows beside the matrix.
    """
    widths = [view.image.shape[1] / view.image.shape[0] for view in views]
    if len(views) <= SIDE_BY_SIDE:
        height = (PAGE - 0.8) / (sum(widths) + 1.07)  # of the pictures and of the matrix alike
        figure = Figure(figsize=(PAGE, height + 1.0))
        *axes, matrix = figure.subplots(1, len(views) + 1, width_ratios=[*widths, 1])
        return figure, axes, matrix, height
    columns = math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    tile = (PAGE - MATRIX - 0.9) / (columns * max(widths))  # its height
    figure = Figure(figsize=(PAGE, max(rows * (tile + 0.2), MATRIX + 0.5) + 0.6))
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[*[tile * max(widths)] * columns, MATRIX])
    axes = [figure.add_subplot(grid[i // columns, i % columns]) for i in range(len(views))]
    return figure, axes, figure.add_subplot(grid[:, -1]), MATRIX


def means_lines(means: Mapping[str, float | None], k: int, n: int) -> list[str]:
    """Describe the similarities at each end of the ranking in lines for the terminal."""
    top, bottom, across = (number(means[name], 3) for name in ("top", "bottom", "across"))
    return [
        f"mean cosine similarity of two different tokens before the projector, {k} of {n} tokens at each end:",
        f"  within the top {k}: {top}; within the bottom {k}: {bottom}; across: {across}",
    ]

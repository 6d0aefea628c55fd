"""Figure 5: the first and the last tokens of an image in a ranking, and their similarities within and across."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from gradprobe.plotting.columns import number
from gradprobe.plotting.style import GREY, PAGE, look
from gradprobe.plotting.token_ends import BAND, draw_similarity, draw_tokens, legend_of_ends

if TYPE_CHECKING:  # without torch
    from gradprobe.vlm.families.base import View


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
            draw_tokens(each, view.image, view.grid, [np.asarray(end) - first for end in (top, bottom)])
            each.set_title(" · ".join(filter(None, ("" if first else title, view.title))))
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
        axes[0].legend(handles=legend_of_ends(k), ncols=2, handlelength=1.2, borderpad=0, **place)
    return figure


def means_lines(means: Mapping[str, float | None], k: int, n: int) -> list[str]:
    """Describe the similarities at each end of the ranking in lines for the terminal."""
    top, bottom, across = (number(means[name], 3) for name in ("top", "bottom", "across"))
    return [
        f"mean cosine similarity of two different tokens before the projector, {k} of {n} tokens at each end:",
        f"  within the top {k}: {top}; within the bottom {k}: {bottom}; across: {across}",
    ]

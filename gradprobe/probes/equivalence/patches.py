"""Figure 4a: images as the operators leave them, patch by patch."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from gradprobe.plotting.style import GREY, PAGE, look

Strip = tuple[str, Sequence[tuple[str, np.ndarray]]]  # a label, and pictures (H, W, 3) in [0, 1] with their titles


def patch_rows(strips: Sequence[Strip]) -> Figure:
    """Draw a row of pictures for each strip, titles above the first one.

    Args:
        strips: as `gradprobe.probes.equivalence.pictures.pictures` makes them, all of the same length.
    """
    columns = len(strips[0][1])
    with look():
        cell = min(max(PAGE / columns, 1.0), 1.6)
        figure = Figure(figsize=(cell * columns + 0.3, cell * len(strips) + 0.3))
        draw_strips(figure, strips)
    return figure


def draw_strips(figure: Figure | SubFigure, strips: Sequence[Strip]) -> None:
    """Draw the pictures of `patch_rows` into a figure or a part of one."""
    grid = figure.subplots(len(strips), len(strips[0][1]), squeeze=False)
    for i, (label, pictures) in enumerate(strips):
        for axes, (title, picture) in zip(grid[i], pictures, strict=True):
            axes.imshow(picture, interpolation="none")  # the pixels themselves, also in a drawing of lines
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(visible=True, color=GREY, linewidth=0.3)  # white patches have an edge too
            if i == 0:
                axes.set_title(title.replace("+", "+\n"), fontsize=6, fontweight="normal", loc="center")
        grid[i, 0].set_ylabel(label)

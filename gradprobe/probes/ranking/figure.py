"""Figure 5 for several operators: ends of their rankings of one image, and means over many."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row, name_of
from gradprobe.plotting.style import BLACK, GREY, PAGE, look
from gradprobe.plotting.token_ends import BOTTOM, TOP, draw_similarity, draw_tokens, legend_of_ends
from gradprobe.probes.ranking.result import RankingResult, over_seeds
from gradprobe.probes.seeds import seed_groups

FEWEST, COLUMNS = 3, 6  # pictures in a line
LINE, EDGES = 0.24, 0.85  # inches: a row of the panels, their titles and legends
APART = 0.2  # of the marks of a row, of the distance of two rows
MARKS = ("top", TOP, -APART), ("bottom", BOTTOM, APART), ("across", GREY, 0.0)
SHARES = ("relevant_top", TOP, -APART), ("relevant_bottom", BOTTOM, APART)
Groups = Sequence[tuple[Row, Sequence[RankingResult]]]  # rows, each with the results of its seeds


def figure(results: Sequence[RankingResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the rankings of a command, see `ranking_figure`; the rows name the operators.

    Args:
        results: of all operators, plans, K and seeds.
        rows: one for each of their `seed_groups`.
        title: above the pictures.

    Raises:
        UsageError: no results.
    """
    return _draw(list(zip(rows, seed_groups(results), strict=True)), title)


def ranking_figure(results: Sequence[RankingResult], title: str = "") -> Figure:
    """Draw the K first and K last tokens of one image, their similarities, and below the means over all images.

    The image is the first of the first seed. Dots are means with their 95 % intervals, small ticks single seeds.

    Args:
        results: of all operators and seeds.
        title: above the pictures.

    Raises:
        UsageError: no results.
    """
    return _draw([(over_seeds(group), group) for group in seed_groups(results)], title)


def _draw(groups: Groups, title: str) -> Figure:
    if not groups:
        raise UsageError("no ranking to draw; give at least one result")
    columns = min(max(len(groups), FEWEST), COLUMNS)
    lines = -(-len(groups) // columns)
    pictures, panels = 2 * lines * PAGE / columns + 0.45 * lines, LINE * len(groups) + EDGES
    with look():
        figure = Figure(figsize=(PAGE, pictures + panels))
        upper, lower = figure.subfigures(2, 1, height_ratios=(pictures, panels), squeeze=False)[:, 0]
        upper.suptitle(title, x=0.01, ha="left", fontweight="bold")
        _examples(upper, groups, upper.subplots(2 * lines, columns, squeeze=False))
        _means(lower, groups)
    return figure


def _examples(figure: SubFigure, groups: Groups, grid: np.ndarray) -> None:
    """Draw the first image and below it the similarities of each operator, with one scale of colours."""
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (row, group) in enumerate(groups):
        line, column = divmod(i, grid.shape[1])
        above, below = grid[2 * line, column], grid[2 * line + 1, column]
        above.set_title(name_of(row).replace("+", "+\n").replace(" (", "\n("), fontsize=6, fontweight="normal")
        _picture(above, group[0])
        drawn = draw_similarity(below, group[0].similarity.astype(float))
    bar = figure.colorbar(drawn, ax=grid.ravel().tolist(), shrink=0.4, aspect=14, pad=0.01, anchor=(0, 0.06))
    bar.ax.tick_params(length=2, labelsize=6)
    bar.outline.set_visible(False)
    bar.set_label("cosine", fontsize=6)


def _picture(axes: Axes, result: RankingResult) -> None:
    """Draw the pictures of an image side by side with its first and last tokens."""
    pictures, first = result.pictures(), 0
    top, bottom = np.split(result.ends, 2)
    for i, (image, grid) in enumerate(pictures):
        place = axes.inset_axes((i / len(pictures), 0, 1 / len(pictures), 1))
        draw_tokens(place, image, grid, [end - first for end in (top, bottom)])
        first += grid[0] * grid[1]
    axes.set_aspect("equal")


def _means(figure: SubFigure, groups: Groups) -> None:
    """Draw means over images: similarities, bottom less top, and shares of tokens that matter where they are known."""
    rows = [row for row, _ in groups]
    known = any("relevant_top" in row for row in rows)
    axes = figure.subplots(1, 3 if known else 2, sharey=True, width_ratios=(3, 2, 2) if known else (3, 2))
    ks = {row["k"] for row in rows}
    _marks(axes[0], rows, MARKS)
    for y, row in enumerate(rows):
        axes[0].plot([row["every"]] * 2, [y - 0.4, y + 0.4], color=BLACK, lw=0.8, ls=(0, (1, 1)), zorder=0)
    axes[0].set_title("mean cosine of two tokens")
    _marks(axes[1], rows, [("gap", BLACK, 0.0)])
    axes[1].axvline(0, color=GREY, lw=0.6, zorder=0)
    axes[1].set_title("bottom less top")
    if known:
        _marks(axes[2], [row if "relevant_top" in row else {} for row in rows], SHARES)
        for y, row in enumerate(rows):
            axes[2].plot([row.get("relevant", np.nan)] * 2, [y - 0.4, y + 0.4], color=BLACK, lw=0.8, ls=(0, (1, 1)))
        axes[2].set(title="relevant share", xlim=(-0.04, 1.04))
    axes[0].set_yticks(np.arange(len(rows)), [name_of(row).replace(" (", "\n(") for row in rows], fontsize=6.5)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for each in axes:
        each.tick_params(axis="y", length=0)
        each.tick_params(axis="x", labelsize=6.5)
        each.grid(axis="x", lw=0.3)
    handles: list[Any] = legend_of_ends(ks.pop()) if len(ks) == 1 else []
    handles += [axes[0].plot([], [], "o", ms=3, color=GREY, label="top with bottom")[0]]
    handles += [axes[0].plot([], [], color=BLACK, lw=0.8, ls=(0, (1, 1)), label=f"all {rows[0]['tokens']} tokens")[0]]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=6.5)


def _marks(axes: Axes, rows: Sequence[Row], marks: Sequence[tuple[str, str, float]]) -> None:
    """Draw numbers of rows as dots with their intervals, and those of single seeds as ticks."""
    for y, row in enumerate(rows):
        for name, colour, apart in marks:
            if row.get(name) is None:
                continue
            if row[f"{name}_low"] is not None:
                axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [y + apart] * 2, color=colour, lw=0.9)
            if len(by_seed := row[f"{name}_by_seed"]) > 1:
                axes.plot(by_seed, [y + apart] * len(by_seed), "|", ms=4, mew=0.6, color=colour)
            axes.plot(row[name], y + apart, "o", ms=3, color=colour)

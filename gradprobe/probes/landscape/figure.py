"""Figures of loss landscapes: contours and stepwise variation as in the paper's Figure 2, and surfaces in 3-D."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gradprobe.errors import UsageError
from gradprobe.plotting.colours import GUMBEL, VPNOISE
from gradprobe.plotting.columns import Row, interval, short
from gradprobe.plotting.style import BLACK, GREY, PAGE, RISE, STEP, look
from gradprobe.probes.landscape import surfaces
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.probes.landscape.surfaces import Results
from gradprobe.probes.landscape.view import labels

COLOUR_MAP = "RdBu_r"  # white is the loss at theta, red above, blue below: told apart by all kinds of colour vision
SHADES = 81  # levels of the shared scale; odd, so that one lies around 0
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), "-.")
UNDEFINED: dict[str, Any] = {"facecolor": "#E4E4E4", "edgecolor": GREY, "hatch": "xxxx", "linewidth": 0}
HEIGHT, BAR, ENTRY, ROOM = 1.75, 0.08, 0.16, 0.75  # inches: of a panel, a colour bar, a legend's line, words around
LOW, NAMED, SMALL = 1.7, 0.2, 5.8  # inches of a block of lines alone and of a legend's entry beside it; points
Canvas = Figure | SubFigure


def landscape_figure(results: Results, rows: Sequence[Row], title: str) -> Figure:
    """Draw the figure of the command, see `landscape_panels`.

    Args:
        results: One or more operators.
        rows: Their rows; a figure needs the losses instead.
        title: Model and budget; images and noise are added.
    """
    return landscape_panels(results, surfaces.full_title(results, title))


def landscape_panels(results: Results, title: str) -> Figure:
    """Draw contours of ``L - L(0)`` of each operator on one colour scale, and the stepwise variation along d2.

    Colours and contour lines compare operators: the spacing of the lines, written above each panel, is the same in all,
    so that a flat landscape has few of them. Cells that are not finite are hatched. Lines (one row) share a panel.

    Args:
        results: One or more operators.
        title: Words above the panels.

    Raises:
        UsageError: no results.
    """
    return _stack([(title, results)], None)


def fig2(panels: Sequence[tuple[str, Results]], paper: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the paper's Figure 2 for each model: operators beside each other, the stepwise variation last.

    A model's panels share one colour scale and one spacing of contour lines; a model with lines alone has its legend
    beside them. Above the variation stands the ratio of its means, Gumbel over VP-noise,
    where both answer the same question.

    Args:
        panels: Name and results of each model.
        paper: Values of the paper: ``ratio`` and, if known, ``model``.

    Raises:
        UsageError: no panels, or one without results.

    Source: DiffPrune, Fig. 2.
    """
    return _stack(panels, paper)


def surface_figure(results: Results, title: str) -> Figure:
    """Draw surfaces of ``L - L(0)`` in 3-D, one for each operator that has a plane, on one height and colour scale.

    Args:
        results: One or more operators; lines are left out.
        title: Words above the surfaces.

    Raises:
        UsageError: no result has a plane.
    """
    planes = surfaces.planes(results)
    if not planes:
        raise UsageError("a surface needs a plane and these are lines; use landscape_figure")
    columns = min(3, len(planes))
    rows = -(-len(planes) // columns)
    width, height = PAGE * max(columns, 2) / 3, 2.4 * rows + 1.0
    with look():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")  # a constrained layout leaves 3-D axes too little
        place = {"left": 0.0, "right": 1 - 0.25 / width, "bottom": 0.65 / height, "top": 1 - 0.6 / height}
        grid = figure.add_gridspec(rows, columns, **place, wspace=0.08, hspace=0.15)
        norm = Normalize(-(limit := surfaces.limit(planes)), limit)
        floor, ceiling = surfaces.heights(planes)
        for i, (result, name) in enumerate(zip(planes, labels(planes), strict=True)):
            axes: Any = figure.add_subplot(grid[divmod(i, columns)], projection="3d")
            _surface(axes, result, norm, floor)
            axes.set_zlim(floor, ceiling)
            words: dict[str, Any] = {"ha": "center", "transform": axes.transAxes}
            axes.text2D(0.5, 1.04, _broken(name), va="bottom", fontsize=7.5, fontweight="bold", **words)
            axes.text2D(0.5, 1.03, "\n".join(surfaces.description(result)), va="top", fontsize=6.5, **words)
        _colour_bar(figure, figure.add_axes((0.3, 0.5 / height, 0.4, BAR / height)), norm)
        figure.text(0.5, 0.08 / height, surfaces.caption(planes), fontsize=7, color=GREY, ha="center")
        figure.suptitle(title, x=0.01, y=1 - 0.08 / height, ha="left", va="top", fontweight="bold")
    return figure


def _stack(panels: Sequence[tuple[str, Results]], paper: Sequence[Mapping[str, Any]] | None) -> Figure:
    """Draw a block of panels for each name, below each other."""
    if not panels or not all(results for _, results in panels):
        raise UsageError("no landscape to draw; give at least one result")
    shapes = [_shape(results) for _, results in panels]
    heights = [
        max(LOW, 0.66 + NAMED * len(results))
        if not surfaces.planes(results)
        else rows * (HEIGHT + ROOM) + BAR + 0.25 + ENTRY * len(results) + 0.35
        for (rows, _), (_, results) in zip(shapes, panels, strict=True)
    ]
    palette = surfaces.colours([result for _, results in panels for result in results])
    with look():
        figure = Figure(figsize=(PAGE, sum(heights)))
        parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)
        for part, height, (name, results) in zip(parts.flat, heights, panels, strict=True):
            note = [] if paper is None else _ratios(results, paper)
            _block(part, results, name.replace("\n", ", "), note, palette, height)
    return figure


def _shape(results: Results) -> tuple[int, int]:
    count = len(surfaces.planes(results)) + bool(surfaces.lines(results)) + 1
    columns = min(3, count)
    return -(-count // columns), columns


def _block(
    part: SubFigure, results: Results, title: str, note: Sequence[str], palette: Mapping[str, str], height: float
) -> None:
    """Draw panels in reading order, the last one to the end of its row; then the colour bar and the legend."""
    part.suptitle(title, x=0.01, ha="left", fontweight="bold")
    planes, lines = surfaces.planes(results), surfaces.lines(results)
    if not planes:
        _row(part, results, note, palette, height)
        return
    rows, columns = _shape(results)
    heights = [HEIGHT] * rows + [BAR, ENTRY * len(results)]
    grid = part.add_gridspec(len(heights), columns, height_ratios=heights)
    names = dict(zip(map(id, results), labels(results), strict=True))
    norm, levels = Normalize(-(limit := surfaces.limit(planes)), limit), surfaces.shared_levels(planes)
    for i, result in enumerate(planes):
        axes = part.add_subplot(grid[divmod(i, columns)])
        _contours(axes, result, norm, levels)
        _head(axes, names[id(result)], result, levels)
    if lines:
        _lines(part.add_subplot(grid[divmod(len(planes), columns)]), results, palette)
    row, column = divmod(len(planes) + bool(lines), columns)
    last = part.add_subplot(grid[row, column:])
    _variation(last, results, palette)
    _title(last, "stepwise variation", note)
    _colour_bar(part, part.add_subplot(grid[rows, : min(columns, len(planes))]), norm)
    below = part.add_subplot(grid[-1, :])
    below.set_axis_off()
    below.legend(*_entries(results, palette, ": "), loc="upper left", borderaxespad=0, borderpad=0)
    part.supxlabel(surfaces.caption(results), fontsize=7, color=GREY)


def _row(part: SubFigure, results: Results, note: Sequence[str], palette: Mapping[str, str], height: float) -> None:
    """Draw lines alone: losses, stepwise variation and the legend beside each other, at the same places everywhere."""
    bottom, top = 0.4 / height, 1 - 0.42 / height
    left, middle = (part.add_axes((x, bottom, 0.228, top - bottom)) for x in (0.09, 0.412))
    _lines(left, results, palette)
    _variation(middle, results, palette)
    _title(middle, "stepwise variation", [])
    handles, texts = _entries(results, palette, "\n")
    legend = part.legend(
        handles, [text.replace("; ", "\n") for text in texts], fontsize=SMALL, loc="upper left",
        bbox_to_anchor=(0.655, 1 - 0.12 / height), handlelength=1.6, labelspacing=0.4,
        borderaxespad=0, borderpad=0, alignment="left", title_fontsize=SMALL,
        title="\n".join([surfaces.caption(results), *note]),
    )  # fmt: skip
    legend.get_title().set_color(GREY)
    legend.set_in_layout(False)


def _contours(axes: Axes, result: LandscapeResult, norm: Normalize, levels: np.ndarray) -> None:
    """Draw filled levels of the shared scale under the contour lines at these heights; d2 lies, d1 stands."""
    values = np.ma.masked_invalid(surfaces.rise(result))
    if values.mask.any():
        axes.patch.set(**UNDEFINED)
    if values.count():
        shades = np.linspace(norm.vmin or 0, norm.vmax or 0, SHADES + 1)
        filled = axes.contourf(result.b, result.a, values, shades, cmap=COLOUR_MAP, norm=norm, corner_mask=False)
        filled.set(edgecolor="face", linewidth=0.1)  # else viewers of PDF files show seams
    if values.count() and (crossed := levels[(levels > values.min()) & (levels < values.max())]).size:
        axes.contour(result.b, result.a, values, crossed, colors=BLACK, linewidths=0.45, alpha=0.65, linestyles="solid")
    if len(result.path):
        axes.plot(result.path[:, 1], result.path[:, 0], "o-", color=BLACK, mfc="white", ms=3.2, mew=0.7, lw=0.8)
    axes.plot(0, 0, "+", color=BLACK, ms=7, mew=1.2, zorder=5)
    points = np.vstack([result.path, [[0, 0]]])
    axes.set_xlim(*_ends(result.b, points[:, 1]))
    axes.set_ylim(*_ends(result.a, points[:, 0]))
    axes.set_xlabel(surfaces.axis_label(result, 2))
    axes.set_ylabel(surfaces.axis_label(result, 1))


def _ends(grid: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis: those of the grid, or of points beyond it with a little room."""
    low, high = float(min(grid.min(), points.min())), float(max(grid.max(), points.max()))
    pad = 0.04 * (high - low)
    return low - pad * (low < grid.min()), high + pad * (high > grid.max())


def _head(axes: Axes, name: str, result: LandscapeResult, levels: np.ndarray) -> None:
    """Write a panel's title, the spacing of its contour lines with it."""
    loss, *words = surfaces.description(result)
    spacing = f", lines every {short(levels[1] - levels[0])}" if len(levels) > 1 else ""
    _title(axes, _broken(name), [loss + spacing, *words])


def _title(axes: Axes, name: str, words: Sequence[str]) -> None:
    """Write a bold name over smaller words."""
    axes.set_title(name, fontsize=7.5, pad=4 + 8.5 * len(words))
    axes.annotate("\n".join(words), (0, 1), (0, 3), "axes fraction", "offset points", va="bottom", fontsize=6.5)


def _broken(name: str, width: int = 28) -> str:
    """Return a long name on several lines, broken before a plus, a colon or at a space.

    Example:
        >>> _broken("gumbel-ste:backward=soft+gather @500").splitlines()
        ['gumbel-ste:backward=soft', '+gather @500']
    """
    lines = [""]
    for piece in name.replace("+", "\0+").replace(":", "\0:").replace(" ", "\0 ").split("\0"):
        if len(lines[-1] + piece) > width and lines[-1]:
            lines.append(piece.lstrip())
        else:
            lines[-1] += piece
    return "\n".join(lines)


def _lines(axes: Axes, results: Results, palette: Mapping[str, str]) -> None:
    """Draw the losses of the results that are lines, above that of theta."""
    for result, (colour, before) in zip(results, surfaces.strokes(results, palette), strict=True):
        if len(result.a) > 1:
            continue
        values = surfaces.rise(result)[0]
        finite = np.isfinite(values)
        axes.plot(result.b, np.where(finite, values, np.nan), color=colour, ls=DASHES[before % len(DASHES)])
        top = axes.get_xaxis_transform()
        axes.plot(result.b[~finite], np.full((~finite).sum(), 0.97), "x", color=colour, ms=4, transform=top)
    axes.plot(0, 0, "+", color=BLACK, ms=7, mew=1.2, zorder=5)
    axes.grid(axis="y")
    axes.set_xlabel(surfaces.axis_label(surfaces.lines(results)[0], 2))
    axes.set_ylabel(RISE)
    _title(axes, "loss along d2", [])


def _variation(axes: Axes, results: Results, palette: Mapping[str, str]) -> None:
    """Draw the mean step of all rows on a log axis; exact zeros are ticks at the bottom, undefined steps crosses."""
    edge = axes.get_xaxis_transform()
    positive = []
    for i, (result, (colour, before)) in enumerate(zip(results, surfaces.strokes(results, palette), strict=True)):
        sizes, at = surfaces.steps(result).mean(0), surfaces.midpoints(result)
        positive.append(sizes[sizes > 0])
        drawn = np.where(sizes > 0, sizes, np.nan)
        axes.plot(at, drawn, marker=".", ms=2.5, color=colour, ls=DASHES[before % len(DASHES)])
        for which, place, mark in ((sizes == 0, 0.02 + 0.03 * i, "|"), (np.isnan(sizes), 0.98 - 0.03 * i, "x")):
            axes.plot(at[which], np.full(which.sum(), place), mark, ms=3.5, mew=0.8, color=colour, transform=edge)
    axes.set_xlabel(surfaces.axis_label(results[0], 2))
    axes.set_ylabel(STEP)
    axes.grid(axis="y")
    every = np.concatenate(positive)
    if not every.size:
        axes.set_yticks([0])
        axes.set_ylim(0, 1)
        return
    low, high = np.log10([every.min(), every.max()])
    pad = 0.12 + 0.1 * (high - low) + 0.03 * len(results)
    axes.set_yscale("log")
    axes.set_ylim(10 ** (low - pad), 10 ** (high + pad / 2))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 1.5 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _entries(results: Results, palette: Mapping[str, str], between: str) -> tuple[list[Line2D], list[str]]:
    """Return a legend's lines and texts: each operator with its mean step, and these words between the two."""
    strokes = surfaces.strokes(results, palette)
    marks = [Line2D([], [], color=colour, ls=DASHES[before % len(DASHES)]) for colour, before in strokes]
    return marks, [f"{n}{between}{surfaces.variation(r)}" for n, r in zip(labels(results), results, strict=True)]


def _colour_bar(figure: Canvas, axes: Axes, norm: Normalize) -> None:
    bar = figure.colorbar(ScalarMappable(norm, COLOUR_MAP), cax=axes, orientation="horizontal")
    bar.ax.set_ylabel(RISE, fontsize=7.5, rotation=0, ha="right", va="center")
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]


def _surface(axes: Any, result: LandscapeResult, norm: Normalize, floor: float) -> None:
    """Draw one surface; d2 runs along x and d1 along y, and cells that are not finite are holes with a cross below."""
    values = surfaces.rise(result)
    finite = np.where(np.isfinite(values), values, np.nan)
    x, y = np.meshgrid(result.b, result.a)
    paint: dict[str, Any] = {"cmap": COLOUR_MAP, "norm": norm, "edgecolor": "#00000066", "linewidth": 0.15}
    axes.plot_surface(x, y, finite, rcount=len(result.a), ccount=len(result.b), **paint)
    holes = np.isnan(finite)
    axes.plot(x[holes], y[holes], np.full(holes.sum(), floor), "x", color=GREY, ms=3)
    axes.view_init(elev=28, azim=-58)
    axes.set_box_aspect((1, 1, 0.7), zoom=0.98)
    axes.tick_params(labelsize=6, pad=-3)
    for axis, which, pad in ((axes.xaxis, 2, -8), (axes.yaxis, 1, -5)):
        axis.set_label_text(surfaces.axis_label(result, which), fontsize=6.5)
        axis.labelpad = pad
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(4))


def _ratios(results: Results, paper: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return Gumbel's mean step over VP-noise's, ours for each pair that differs in nothing else, and the paper's."""
    ratios = []
    pairs = [
        (top, base)
        for top in results
        for base in results
        if (top.question["op"], base.question["op"]) == (GUMBEL, VPNOISE)
        and {**top.question, "op": None} == {**base.question, "op": None}
        and np.array_equal(top.b, base.b)
    ]
    names = dict(zip(map(id, results), labels(results), strict=True))
    for top, base in pairs:
        row = top.row(baseline=base)
        ours = interval(row.get("d2_ratio"), row.get("d2_ratio_low"), row.get("d2_ratio_high"))
        ours = "undefined" if row.get("d2_ratio") is None else ours
        apart = names[id(top)].removeprefix(GUMBEL) if len(pairs) > 1 else ""
        ratios.append(f"Gumbel / VP-noise{apart}: {ours}")
    theirs = [f"{p['ratio']:g}" + (f" ({p['model']})" if "model" in p else "") for p in paper if "ratio" in p]
    return [*ratios, f"paper: about {', '.join(theirs)}"] if theirs else ratios

"""Interactive page of landscapes: one self-contained HTML file that works offline, drawn by plotly."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from gradprobe.errors import UsageError
from gradprobe.plotting.escape import html, script_json
from gradprobe.plotting.pages import check_html, write_html
from gradprobe.plotting.style import BLACK, GREY
from gradprobe.probes.landscape import surfaces
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.probes.landscape.surfaces import Results
from gradprobe.probes.landscape.view import labels

COLOUR_MAP = "RdBu_r"  # the same as in the figures
RISE, STEP = "L − L(0)", "|L<sub>j+1</sub> − L<sub>j</sub>|"
DASHES = ("solid", "dash", "dot", "dashdot")
UNDEFINED = "#E4E4E4"
FONT = {"family": "system-ui, sans-serif", "size": 12, "color": "#222222"}
Trace = dict[str, Any]


def save_page(results: Results, path: Path | str, title: str) -> Path:
    """Write a page with the surface of each operator in 3-D or as contours, the lines, and the stepwise variation.

    Heights and colours are ``L - L(0)`` on one scale for all operators. Nothing is fetched and nothing is sent. Same
    results, same bytes, as long as plotly is the same: its script is in the file (5 MB).

    Args:
        results: One or more operators.
        path: File, .html; its folder is made if need be.
        title: Heading of the page.

    Raises:
        UsageError: no results, or another suffix.
        GradprobeError: plotly is not installed, or the file cannot be written.
    """
    path = check_page(path)
    if not results:
        raise UsageError("no landscape to show; give at least one result")
    return write_html(_page(results, title), path)


def check_page(path: Path | str) -> Path:
    """Refuse a page that cannot be made (before the work that it would show is done).

    Raises:
        UsageError: another suffix.
        GradprobeError: plotly is not installed.
    """
    return check_html(path, "plotly", "interactive")


def _page(results: Results, title: str) -> str:
    objects: Any = importlib.import_module("plotly.graph_objects")
    script = importlib.import_module("plotly.offline").get_plotlyjs()

    def checked(traces: Sequence[Trace], layout: Trace) -> Any:
        """Return a figure that has passed plotly's own checks: an attribute that it does not know is an error."""
        base = {"template": "none", "font": FONT, "hoverlabel": {"align": "left"}}
        return json.loads(objects.Figure(list(traces), {**base, **layout}).to_json())

    planes, lines = surfaces.planes(results), surfaces.lines(results)
    names = dict(zip(map(id, results), labels(results), strict=True))
    figures = {
        "surfaces": [
            {"3d": checked(*_in_space(each, planes)), "contour": checked(*_from_above(each, planes))} for each in planes
        ],
        "about": ["; ".join(surfaces.description(each)) for each in planes],
        "lines": checked(*_lines(results, names)) if lines else None,
        "variation": checked(*_variation(results, names)),
    }
    means = [f"<li>{html(names[id(each)])}: {surfaces.variation(each)}</li>" for each in results]
    question = results[0].question
    model = ", ".join(f"{name} {question[name]}" for name in ("backbone", "scorer") if name in question)
    return Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8")).substitute(
        title=html(title),
        setting=html("; ".join(surfaces.caption(results).splitlines())),
        model=html(model),
        options="".join(f"<option>{html(names[id(each)])}</option>" for each in planes),
        planes="" if planes else "hidden",
        lines="" if lines else "hidden",
        entries=len(results),
        means="".join(means),
        data=script_json(figures),
        plotly=script,
    )


def _in_space(result: LandscapeResult, every: Results) -> tuple[list[Trace], Trace]:
    """Return the surface as traces and a layout; d2 runs along x and d1 along y."""
    limit, (floor, ceiling) = surfaces.limit(every), surfaces.heights(every)
    surface = {
        "type": "surface", "x": _plain(result.b), "y": _plain(result.a), "z": _plain(surfaces.rise(result)),
        "text": np.array(_hover(result)), "hoverinfo": "text", "colorscale": COLOUR_MAP, "cmin": -limit, "cmax": limit,
        "colorbar": _bar(), "lighting": {"ambient": 0.85, "diffuse": 0.25, "specular": 0.02},
        "contours": {"x": _mesh(result.b), "y": _mesh(result.a), "z": {"highlight": False}},
    }  # fmt: skip
    traces = [surface]
    for points, heights, texts, style in _points(result):
        high = np.full(len(points), floor) if heights is None else heights
        traces.append({
            "type": "scatter3d", "x": _plain(points[:, 1]), "y": _plain(points[:, 0]), "z": _plain(high),
            "text": texts, "hoverinfo": "text", "showlegend": False, "mode": style["mode"],
            "marker": {"size": 4, "symbol": style["solid"], "color": style["color"]},
            "line": {"color": style["color"], "width": 4},
        })  # fmt: skip
    axis = {"showspikes": False, "zeroline": False, "showbackground": True, "backgroundcolor": "#F0F0F0"}
    axis |= {"gridcolor": "#CCCCCC", "nticks": 6}
    scene = {
        "xaxis": {**axis, "title": {"text": surfaces.axis_label(result, 2)}},
        "yaxis": {**axis, "title": {"text": surfaces.axis_label(result, 1)}},
        "zaxis": {**axis, "title": {"text": RISE}, "range": [floor, ceiling]},
        "aspectmode": "manual",
        "aspectratio": {"x": 1, "y": 1, "z": 0.7},
        "camera": {"eye": {"x": 1.4, "y": -1.5, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.1}},
        "dragmode": "turntable",
        "uirevision": "kept",  # another operator, the same view
    }
    return traces, {"scene": scene, "margin": {"l": 0, "r": 0, "t": 0, "b": 56}}


def _from_above(result: LandscapeResult, every: Results) -> tuple[list[Trace], Trace]:
    """Return the surface as contours: colours of the shared scale, lines of its own; cells not finite are grey."""
    limit, levels = surfaces.limit(every), surfaces.levels(result)
    lines: Trace = {"coloring": "heatmap", "showlines": len(levels) > 0}
    if len(levels):
        size = float(levels[1] - levels[0]) if len(levels) > 1 else 1.0
        lines |= {"start": float(levels[0]), "end": float(levels[-1]), "size": size}
    contour = {
        "type": "contour", "x": _plain(result.b), "y": _plain(result.a), "z": _plain(surfaces.rise(result)),
        "text": _hover(result), "hoverinfo": "text", "colorscale": COLOUR_MAP, "zmin": -limit, "zmax": limit,
        "colorbar": _bar(), "contours": lines, "autocontour": False, "connectgaps": False,
        "line": {"color": BLACK, "width": 0.6},
    }  # fmt: skip
    traces = [contour]
    for points, _, texts, style in _points(result):
        traces.append({
            "type": "scatter", "x": _plain(points[:, 1]), "y": _plain(points[:, 0]), "text": texts,
            "hoverinfo": "text", "showlegend": False, "mode": style["mode"], "line": {"color": style["color"]},
            "marker": {"size": 8, "symbol": style["symbol"], "color": style["color"],
                       "line": {"width": 2, "color": style["color"]}},
        })  # fmt: skip
    axis = {"showgrid": False, "zeroline": False, "ticks": "outside"}
    return traces, {
        "xaxis": {**axis, "title": {"text": surfaces.axis_label(result, 2)}},
        "yaxis": {**axis, "title": {"text": surfaces.axis_label(result, 1)}},
        "plot_bgcolor": UNDEFINED,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 110},
    }


def _points(result: LandscapeResult) -> list[tuple[np.ndarray, np.ndarray | None, list[str], dict[str, str]]]:
    """Return the points on a surface: theta, the checkpoints, and (without a height) the cells that are not finite."""
    theta = {"mode": "markers", "symbol": "cross-thin", "solid": "cross", "color": BLACK}
    marks: list = [(np.zeros((1, 2)), np.zeros(1), [f"theta<br>L = {surfaces.centre(result):.5g}"], theta)]
    if len(result.path):
        losses = result.path_losses.mean(-1, dtype=np.float64)
        texts = [
            f"checkpoint {i} of {len(losses)}<br>L = {loss:.5g}<br>{100 * off:.0f} % off the plane"
            for i, (loss, off) in enumerate(zip(losses, result.residual, strict=True), 1)
        ]
        style = {"mode": "lines+markers", "symbol": "circle-open", "solid": "circle", "color": BLACK}
        marks.append((result.path, losses - surfaces.centre(result), texts, style))
    rows, columns = np.nonzero(~np.isfinite(surfaces.rise(result)))
    if len(rows):
        texts = [_hover(result)[i][j] for i, j in zip(rows, columns, strict=True)]
        style = {"mode": "markers", "symbol": "x-thin", "solid": "x", "color": GREY}
        marks.append((np.stack([result.a[rows], result.b[columns]], -1), None, texts, style))
    return marks


def _hover(result: LandscapeResult) -> list[list[str]]:
    """Return the text of each cell: coordinates, loss, and its distance from the loss of theta."""
    unit = surfaces.axis_label(result, 1).partition(", ")[2]
    where = [[f"d1 = {a:.4g}, d2 = {b:.4g} ({unit})" for b in result.b] for a in result.a]
    cells = zip(where, result.surface, surfaces.rise(result), strict=True)
    return [
        [f"{at}<br>L = {loss:.5g}<br>{RISE} = {above:+.4g}" for at, loss, above in zip(*row, strict=True)]
        for row in cells
    ]


def _lines(results: Results, names: dict[int, str]) -> tuple[list[Trace], Trace]:
    """Return the losses along d2 of the results that are lines; points not finite are crosses at the top."""
    lines = surfaces.lines(results)
    top = surfaces.heights(lines)[1]
    traces = []
    for result, (colour, before) in zip(results, surfaces.strokes(results), strict=True):
        if len(result.a) > 1:
            continue
        values = surfaces.rise(result)[0]
        holes = {"y": [top] * int((~np.isfinite(values)).sum()), "symbol": "x-thin"}
        traces += _curve(names[id(result)], colour, before, result.b, values, _hover(result)[0], holes)
    axis = {"zeroline": False, "ticks": "outside", "gridcolor": "#DDDDDD"}
    return traces, _layout({**axis, "title": {"text": RISE}}, surfaces.axis_label(lines[0], 2))


def _variation(results: Results, names: dict[int, str]) -> tuple[list[Trace], Trace]:
    """Return the mean step of all rows on a log axis; exact zeros are ticks at the bottom, undefined ones crosses."""
    traces = []
    means = [surfaces.steps(result).mean(0) for result in results]
    every = np.concatenate([sizes[sizes > 0] for sizes in means])
    floor, top = (every.min() / 2, every.max() * 2) if every.size else (0.0, 1.0)
    for result, sizes, (colour, before) in zip(results, means, surfaces.strokes(results), strict=True):
        at, name = surfaces.midpoints(result), names[id(result)]
        texts = [f"d2 = {b:.4g}<br>{STEP} = {size:.4g}" for b, size in zip(at, sizes, strict=True)]
        zeros = np.where(sizes == 0, np.inf, sizes)  # drawn apart: a log axis has no place for them
        missing = ~np.isfinite(zeros)
        marks = {
            "y": [float(floor if size == 0 else top) for size in sizes[missing]],
            "symbol": ["line-ns" if size == 0 else "x-thin" for size in sizes[missing]],
        }
        traces += _curve(name, colour, before, at, zeros, texts, marks)
    axis: Trace = {
        "title": {"text": STEP, "standoff": 12},
        "ticks": "outside",
        "gridcolor": "#DDDDDD",
        "zeroline": False,
    }
    fine = "D2" if every.size and every.max() / every.min() < 30 else 1  # ticks at 1, 2 and 5, or at powers of ten
    axis |= {"type": "log", "dtick": fine, "tickformat": "~g"} if every.size else {"range": [-0.05, 1], "tickvals": [0]}
    return traces, _layout(axis, surfaces.axis_label(results[0], 2))


def _curve(
    name: str, colour: str, before: int, x: np.ndarray, y: np.ndarray, texts: list[str], marks: dict[str, Any]
) -> list[Trace]:
    """Return a line that breaks where y is not finite, and one mark for each such point; the legend switches both."""
    finite = np.isfinite(y)
    curve = {
        "type": "scatter", "name": html(name), "legendgroup": name, "x": _plain(x), "y": _plain(y), "text": texts,
        "hoverinfo": "text+name", "mode": "lines+markers", "marker": {"size": 4, "color": colour},
        "line": {"color": colour, "width": 1.5, "dash": DASHES[before % len(DASHES)]},
    }  # fmt: skip
    if finite.all():
        return [curve]
    where = {"x": _plain(x[~finite]), "y": marks["y"], "text": [texts[i] for i in np.flatnonzero(~finite)]}
    dots = {"symbol": marks["symbol"], "size": 6, "color": colour, "line": {"width": 1.5, "color": colour}}
    return [curve, {**curve, **where, "mode": "markers", "marker": dots, "showlegend": False}]


def _layout(y: Trace, x: str) -> Trace:
    return {
        "xaxis": {"title": {"text": x}, "zeroline": False, "ticks": "outside", "showgrid": False},
        "yaxis": {**y, "automargin": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"l": 64, "r": 12, "t": 8, "b": 48},
        "hovermode": "closest",
        "showlegend": True,
    }


def _mesh(grid: np.ndarray) -> Trace:
    """Return the lines on a surface along the grid, without which a flat one has no shape."""
    size = float(grid[1] - grid[0])
    lines = {"show": True, "start": float(grid[0]), "end": float(grid[-1]) + size / 2, "size": size}
    return {**lines, "color": "#555555", "width": 1, "highlight": False}


def _bar() -> Trace:
    return {
        "orientation": "h",
        "thickness": 10,
        "len": 0.9,
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
        "title": {"text": RISE, "side": "top"},
        "outlinewidth": 0,
    }


def _plain(values: np.ndarray) -> list:
    """Return nested lists of numbers, None where not finite: the same text everywhere, and holes in the picture."""
    numbers = np.asarray(values, dtype=object)
    numbers[~np.isfinite(np.asarray(values, dtype=np.float64))] = None
    return numbers.tolist()

"""Parts of the figures on measures and outcomes: an outcome over a measure, correlations as intervals, a key."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradprobe.plotting.colours import FREE, THROTTLES, throttle_of
from gradprobe.plotting.labels import Box, ends, placed, text_size
from gradprobe.plotting.style import BLACK, GREY
from gradprobe.statistics.association import Units
from gradprobe.statistics.estimates import Estimate

NUMBER, SMALL = 5.5, 6.0  # points
KEY_LINE, INDENT, LETTERS = 0.115, 0.95, 128  # inches of a line of the key and before its names; their letters
MARKS = "oD^sPvXp"
ROUGHNESS = "roughness"  # on a logarithmic axis

Style = tuple[str, str]  # colour and marker


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return axes at a place in inches, counted from the left and from the top."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Write text below a place in inches, counted from the left and from the top."""
    wide, high = figure.get_size_inches()
    figure.text(left / wide, 1 - top / high, text, va="top", **{"fontsize": SMALL, **style})


def by_throttle(operators: Sequence[str]) -> list[str]:
    """Return distinct operators in the order of their numbers: those of one throttle beside each other.

    Example:
        >>> by_throttle(["a+gather", "a+zero", "b+gather", "a+gather"])
        ['a+gather', 'b+gather', 'a+zero']
    """
    throttles = list(dict.fromkeys(map(throttle_of, operators)))
    return sorted(dict.fromkeys(operators), key=lambda op: throttles.index(throttle_of(op)))


def styles_of(operators: Sequence[str]) -> dict[str, Style]:
    """Return the colour and the marker of each throttle."""
    throttles = list(dict.fromkeys(map(throttle_of, operators)))
    known = [THROTTLES[throttle] for throttle in throttles if throttle in THROTTLES]
    free = iter([colour for colour in FREE if colour not in known] + [GREY] * len(throttles))
    order = [*THROTTLES, *(throttle for throttle in throttles if throttle not in THROTTLES)]
    return {t: (THROTTLES.get(t) or next(free), MARKS[order.index(t) % len(MARKS)]) for t in throttles}


def measure_panel(axes: Axes, name: str, units: Units, operators: Sequence[str], styles: Mapping[str, Style]) -> None:
    """Draw the outcome over one measure: a numbered mark an operator, at its means, with the range of its seeds.

    Args:
        axes: Axes to draw in, at their final place.
        name: Name of the measure.
        units: Operators under seeds.
        operators: Names in the order of their numbers.
        styles: By throttle.
    """
    values = units.measures[name]
    means, texts = [], []
    for i, op in enumerate(operators):
        own = np.array([other == op for other in units.operator]) & np.isfinite(values)
        if not own.any():
            continue
        colour, mark = styles[throttle_of(op)]
        x, y = float(values[own].mean()), float(units.outcome[own].mean())
        seeds: dict[str, Any] = {"color": colour, "lw": 0.6, "alpha": 0.5, "zorder": 1}
        axes.plot([values[own].min(), values[own].max()], [y, y], **seeds)
        axes.plot([x, x], [units.outcome[own].min(), units.outcome[own].max()], **seeds)
        axes.plot([x], [y], mark, color=colour, ms=3.6, mec="white", mew=0.15, zorder=2)
        means.append((x, y))
        texts.append((str(i + 1), colour))
    if name == ROUGHNESS:
        axes.set_xscale("log")
    else:
        axes.axvline(0, color=BLACK, lw=0.4, alpha=0.4, zorder=0)
    axes.margins(0.08, 0.2)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # now, as the numbers are placed by them
    axes.tick_params(labelsize=6.5, length=2.5)
    axes.set_xlabel(f"{name} (n = {len(means)})", fontsize=6.5)
    _number(axes, means, texts)


def _number(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[tuple[str, str]]) -> None:
    """Write a number near each point, on no mark and no other number."""
    box, figure = axes.get_position(), axes.get_figure()
    wide, high = (72 * side for side in figure.get_size_inches())  # type: ignore[union-attr]
    size = np.array([box.width * wide, box.height * high])
    spots = (axes.transData + axes.transAxes.inverted()).transform(np.array(points)) * size
    order = np.lexsort((spots[:, 1], spots[:, 0])).tolist()
    sizes = [(width + 1.5, height) for width, height in (text_size(text, NUMBER) for text, _ in texts)]
    for _ in order:  # where many points are close, those without a place choose before the others
        at = [(float(x), float(y)) for x, y in spots[order]]
        boxes = placed(at, [sizes[i] for i in order], Box(0, 0, *map(float, size)))
        without = [i for i, to in zip(order, boxes, strict=True) if to is None]
        if not without:
            break
        order = [*without, *(i for i in order if i not in without)]
    for i, to in zip(order, boxes, strict=True):
        if to is None:
            continue
        (text, colour), (x, y) = texts[i], spots[i]
        to_x, to_y = ends((float(x), float(y)), to)
        if abs(to_x - x) + abs(to_y - y) > 5:
            line = np.array([[x, to_x], [y, to_y]]) / size[:, None]
            axes.plot(*line, color=colour, lw=0.3, transform=axes.transAxes, zorder=1)
        left, middle = to.left / size[0], (to.bottom + to.top) / 2 / size[1]
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.2}
        paint: dict[str, Any] = {"fontsize": NUMBER, "color": colour, "va": "center", "bbox": behind}
        axes.text(left, middle, text, transform=axes.transAxes, zorder=3, **paint)


def forest(axes: Axes, lines: Sequence[Sequence[tuple[Estimate, str, str]]]) -> None:
    """Draw estimates with their intervals, the first line on top.

    Args:
        axes: Axes to draw in.
        lines: Estimates of each line, each with its marker and its face's colour.
    """
    for y, line in enumerate(lines):
        for i, (each, mark, face) in enumerate(line):
            at = y + 0.3 * (i - (len(line) - 1) / 2)
            axes.plot([each.low, each.high], [at, at], color=BLACK, lw=0.7, zorder=1)
            axes.plot([each.value], [at], mark, color=BLACK, mfc=face, ms=3, mew=0.7, zorder=2)
    axes.axvline(0, color=BLACK, lw=0.6)
    axes.grid(axis="x")
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL, length=2)
    axes.spines["left"].set_visible(False)


def key_height(operators: Sequence[str]) -> float:
    """Return the inches that `draw_key` takes."""
    return KEY_LINE * sum(len(lines) for _, lines in _key_lines(operators))


def draw_key(figure: Figure, left: float, top: float, operators: Sequence[str], styles: Mapping[str, Style]) -> None:
    """Write a line for each throttle: its mark, and its operators with their numbers.

    Args:
        figure: Place.
        left: Inches from the left.
        top: Inches from the top.
        operators: Names in the order of their numbers.
        styles: By throttle.
    """
    line, (wide, high) = 0, figure.get_size_inches()
    for throttle, lines in _key_lines(operators):
        colour, mark = styles[throttle]
        at = top + KEY_LINE * line
        spot = [(left + 0.05) / wide], [1 - (at + 0.042) / high]
        figure.add_artist(Line2D(*spot, ls="", marker=mark, color=colour, ms=3.6, mec="white", mew=0.15))
        write(figure, left + 0.14, at, throttle, color=colour, fontweight="bold", fontsize=NUMBER)
        for text in lines:
            write(figure, left + INDENT, top + KEY_LINE * line, text, color=colour, fontsize=NUMBER)
            line += 1


def _key_lines(operators: Sequence[str]) -> list[tuple[str, list[str]]]:
    throttles = list(dict.fromkeys(map(throttle_of, operators)))
    lines = []
    for throttle in throttles:
        names = [f"{i + 1}\u00a0{op}" for i, op in enumerate(operators) if throttle_of(op) == throttle]
        wrapped = textwrap.wrap(",  ".join(names), LETTERS, break_long_words=False, break_on_hyphens=False)
        lines.append((throttle, [text.replace("\u00a0", " ") for text in wrapped]))
    return lines

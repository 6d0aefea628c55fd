"""Figures of fidelity: cosines with the gradient of the smoothed deployed loss, and the descent along each gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from gradprobe.errors import UsageError
from gradprobe.plotting.colours import colours_of
from gradprobe.plotting.columns import Row
from gradprobe.plotting.labels import spread
from gradprobe.plotting.style import BLACK, GREY, PAGE, look
from gradprobe.probes.fidelity.result import FidelityResult

MARKS = ("o", "s", "D", "^", "v")
DASHES = ((0, (1, 1)), (0, (4, 1.5)), (0, (6, 1, 1, 1)), "-.", ":")
LINE, HEAD = 0.115, 0.55  # inches of a marked value, and of the words around a panel
NAME, APART = 6.0, 7.5  # points: size of the name of a curve, and distance of two
Panel = tuple[str, Sequence[Row]]


def fidelity_figure(results: Sequence[FidelityResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the fidelities of one model, see `fidelity_panels`.

    Args:
        results: one for each row.
        rows: of the results; the first is on top.
        title: above the axes, followed by the number of images.

    Raises:
        UsageError: no rows.
    """
    return fidelity_panels([(f"{title}, {rows[0]['images']} images" if title and rows else title, rows)])


def fidelity_panels(panels: Sequence[Panel]) -> Figure:
    """Draw, for each panel, disattenuated cosines of all operators and sigmas, and the fall of the deployed loss.

    An operator has one colour in all panels, and its name beside its curve.

    Args:
        panels: name and rows of one model each, the rows as `FidelityResult.row` makes them.

    Raises:
        UsageError: no panels, or one without rows.
    """
    if not panels or not all(rows for _, rows in panels):
        raise UsageError("no fidelity to draw; give at least one result")
    heights = [max(1.9, LINE * sum(len(row["sigmas"]) + 0.6 for row in rows)) + HEAD for _, rows in panels]
    with look():
        figure = Figure(figsize=(PAGE, sum(heights) + 0.3))
        grid = figure.add_gridspec(len(panels), 2, width_ratios=[1, 1], height_ratios=heights)
        colours = colours_of(str(row["op"]) for _, rows in panels for row in rows)
        for i, (height, (name, rows)) in enumerate(zip(heights, panels, strict=True)):
            descends = any(row["ladder"] for row in rows)
            left = figure.add_subplot(grid[i, 0] if descends else grid[i, :])
            _cosines(left, rows, colours)
            left.set_title(name.replace("\n", ", "))
            if descends:
                _descent(figure.add_subplot(grid[i, 1]), rows, colours, APART / 72 / (height - HEAD))
        widths = max((row["sigmas"] for _, rows in panels for row in rows), key=len)
        marks = [
            Line2D([], [], color=GREY, marker=mark, ls="", ms=4, label=f"σ = {at['sigma']:g}")
            for mark, at in zip(MARKS * len(widths), widths, strict=False)
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=5, columnspacing=1.2)
    return figure


def _cosines(axes: Axes, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    """Draw a mark with its interval for each operator and sigma, the first on top; undefined ones are written."""
    place, ticks, ends = 0.0, [], [0.0]
    for row in rows:
        ticks.append(place + (len(row["sigmas"]) - 1) / 2)
        for i, at in enumerate(row["sigmas"]):
            if at["cosine"] is None:
                why = "no gradient" if row["gradient"] == "none" else "undefined"
                axes.text(0, place + i, f" {why}", va="center", fontsize=6.5, color=GREY)
                continue
            low, high = at["cosine_low"], at["cosine_high"]
            paint: dict[str, Any] = {
                "color": colours[row["op"]],
                "mfc": colours[row["op"]],
                "mec": BLACK,
                "mew": 0.4,
                "ms": 3.4,
            }
            error = None if low is None else [[at["cosine"] - low], [high - at["cosine"]]]
            axes.errorbar(at["cosine"], place + i, xerr=error, fmt=MARKS[i % len(MARKS)], elinewidth=1.1, **paint)
            ends += [at["cosine"], at["cosine"]] if low is None else [low, high]
        place += len(row["sigmas"]) + 0.6
    axes.axvline(0, color=BLACK, linewidth=0.8)
    pad = 0.04 * (max(ends) - min(ends) + 0.1)
    axes.set_xlim(max(min(ends) - pad, -1.1), min(max(*ends, 0.1) + pad, 1.25))
    axes.set_ylim(place - 0.8, -0.8)
    axes.set_yticks(ticks, [_broken(str(row["op"])) for row in rows], fontsize=6.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    about = rows[0]
    draws = f"{about['images']} images, {about['draws']} pairs of draws, {about['noise_draws']} of noise"
    name = "cosine with the gradient of the smoothed deployed loss, 95 %"
    axes.set_xlabel(f"{name}\n{draws}; spread of scores {about['spread']:.2g}", fontsize=6.5, loc="right")


def _descent(axes: Axes, rows: Sequence[Row], colours: Mapping[str, str], apart: float) -> None:
    """Draw the fall of the deployed loss for each step, with intervals and names; below zero it rises.

    Args:
        axes: Place.
        rows: Of one model.
        colours: By operator.
        apart: Least distance of two names, as a share of the height.
    """
    about = next(row for row in rows if row["ladder"])
    steps = np.array([at["step"] for at in about["ladder"]])
    falls, named = [], []
    for i, row in enumerate(rows):
        if not row["ladder"] or row["ladder"][0]["rate"] is None:
            continue
        value, low, high = (  # fewer than five seeds have no interval: NaN
            steps * np.array([at[name] for at in row["ladder"]], float) for name in ("rate", "rate_low", "rate_high")
        )
        falls.append(value)
        named.append((str(row["op"]), value[-1], colours[row["op"]]))
        beside = steps * 1.035 ** (i - len(rows) / 2)  # not on top of each other
        axes.errorbar(
            beside, value, yerr=[value - low, high - value], color=colours[row["op"]], marker="o", ms=2.6, mec=BLACK,
            mew=0.3, elinewidth=0.7, capsize=1.2, lw=0.9,
        )  # fmt: skip
    for s, dash in zip(range(len(about["ladder"][0]["ceilings"])), DASHES * 9, strict=False):
        value = steps * [at["ceilings"][s]["rate"] for at in about["ladder"]]
        falls.append(value)
        axes.plot(steps, value, color=GREY, ls=dash, lw=1.1, zorder=1)
        named.append((f"reference, σ = {rows[0]['sigmas'][s]['sigma']:g}", value[-1], GREY))
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set_xscale("log")
    sizes = np.abs(np.concatenate(falls))
    typical = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    if sizes.max() > 10 * typical:
        unit = 10.0 ** np.ceil(np.log10(2 * typical))
        axes.set_yscale("symlog", linthresh=unit, linscale=1.5)
        low, high = axes.get_ylim()
        axes.set_yticks([sign * unit * size for size in (1, 10, 100) for sign in (-1, 1)] + [0.0])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(max(low, -300 * unit), min(high, 300 * unit))
    axes.grid(axis="y")
    before = f"{about['held_out']} held-out images, loss {about['held_loss']:.3g} before"
    axes.set_xlabel(f"step along -g, relative to |θ|\n{before}", fontsize=6.5, loc="left")
    axes.set_ylabel("fall of the deployed loss")
    _name_curves(axes, steps[-1] * 1.035 ** (len(rows) / 2), named, apart)


def _name_curves(axes: Axes, end: float, named: Sequence[tuple[str, float, str]], apart: float) -> None:
    """Write names right of the axes, at the heights at which the curves end or as near as there is room."""
    to_axes = axes.transData + axes.transAxes.inverted()
    spots = [to_axes.transform((end, value)) for _, value, _ in named]
    heights = spread([float(y) for _, y in spots], apart, 0.0, 1.0)
    for (name, _, colour), (x, y), height in zip(named, spots, heights, strict=True):
        line = [[float(x) + 0.01, 1.03, 1.05], [min(max(float(y), 0.0), 1.0), height, height]]
        axes.plot(*line, color=colour, lw=0.5, alpha=0.7, transform=axes.transAxes, clip_on=False)
        axes.text(1.06, height, name, transform=axes.transAxes, color=colour, fontsize=NAME, va="center")


def _broken(name: str, width: int = 22) -> str:
    """Return a long name on two lines."""
    return name if len(name) <= width else name.replace("+", "\n+", 1)

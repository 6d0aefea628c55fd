"""Figures of fidelity: cosines with the gradient of the smoothed deployed loss, and the descent along each gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row
from gradprobe.plotting.style import BLACK, COLOURS, GREEN, GREY, PAGE, PURPLE, SKY, VERMILION, YELLOW, look
from gradprobe.probes.fidelity.result import FidelityResult

FREE = (VERMILION, GREEN, SKY, PURPLE, BLACK, "#8C510A", YELLOW)  # after the paper's two
MARKS = ("o", "s", "D", "^", "v")
DASHES = ((0, (1, 1)), (0, (4, 1.5)), (0, (6, 1, 1, 1)), "-.", ":")
LINE = 0.17  # inches of a marked value
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

    Args:
        panels: name and rows of one model each, the rows as `FidelityResult.row` makes them.

    Raises:
        UsageError: no panels, or one without rows.
    """
    if not panels or not all(rows for _, rows in panels):
        raise UsageError("no fidelity to draw; give at least one result")
    heights = [max(1.9, LINE * sum(len(row["sigmas"]) + 0.6 for row in rows)) + 0.55 for _, rows in panels]
    with look():
        figure = Figure(figsize=(PAGE, sum(heights) + 0.5))
        grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=[1.1, 1], height_ratios=heights)
        for (left, right), (name, rows) in zip(grid, panels, strict=True):
            free = iter(FREE * len(rows))  # a panel's own: no two of its operators share one while there are enough
            colours = {str(row["op"]): COLOURS.get(row["op"]) or next(free) for row in rows}
            _cosines(left, rows, colours)
            left.set_title(name.replace("\n", ", "))
            if any(row["ladder"] for row in rows):
                _descent(right, rows, colours)
            else:
                right.set_axis_off()
        widths = max((row["sigmas"] for _, rows in panels for row in rows), key=len)
        marks = [
            Line2D([], [], color=GREY, marker=mark, ls="", ms=4, label=f"σ = {at['sigma']:g}")
            for mark, at in zip(MARKS * len(widths), widths, strict=False)
        ]
        if any(row["ladder"] for _, rows in panels for row in rows):
            marks += [
                Line2D([], [], color=GREY, ls=dash, label=f"along the reference, σ = {at['sigma']:g}")
                for dash, at in zip(DASHES * len(widths), widths, strict=False)
            ]
        figure.legend(handles=marks, loc="outside lower center", ncols=3, columnspacing=1.2)
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
                "ms": 4,
            }
            error = None if low is None else [[at["cosine"] - low], [high - at["cosine"]]]
            axes.errorbar(at["cosine"], place + i, xerr=error, fmt=MARKS[i % len(MARKS)], elinewidth=1.1, **paint)
            ends += [at["cosine"], at["cosine"]] if low is None else [low, high]
        place += len(row["sigmas"]) + 0.6
    axes.axvline(0, color=BLACK, linewidth=0.8)
    pad = 0.04 * (max(ends) - min(ends) + 0.1)
    axes.set_xlim(max(min(ends) - pad, -1.1), min(max(*ends, 0.1) + pad, 1.25))
    axes.set_ylim(place - 0.8, -0.8)
    axes.set_yticks(ticks, [_broken(str(row["op"])) for row in rows], fontsize=6.8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    about = rows[0]
    axes.set_xlabel(
        f"cosine with grad of the smoothed deployed loss, 95 %\n{about['images']} images, {about['draws']} pairs of "
        f"draws, {about['noise_draws']} of noise; spread of scores {about['spread']:.2g}",
        fontsize=7,
    )


def _descent(axes: Axes, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    """Draw the fall of the deployed loss for each step, with intervals; below zero it rises."""
    about = next(row for row in rows if row["ladder"])
    steps = np.array([at["step"] for at in about["ladder"]])
    falls = []
    for i, row in enumerate(rows):
        if not row["ladder"] or row["ladder"][0]["rate"] is None:
            continue
        value, low, high = (  # fewer than five seeds have no interval: NaN
            steps * np.array([at[name] for at in row["ladder"]], float) for name in ("rate", "rate_low", "rate_high")
        )
        falls.append(value)
        apart = steps * 1.035 ** (i - len(rows) / 2)  # beside each other, not on top
        axes.errorbar(
            apart, value, yerr=[value - low, high - value], color=colours[row["op"]], marker="o", ms=2.6, mec=BLACK,
            mew=0.3, elinewidth=0.7, capsize=1.2, lw=0.9,
        )  # fmt: skip
    for s, dash in zip(range(len(about["ladder"][0]["ceilings"])), DASHES * 9, strict=False):
        value = steps * [at["ceilings"][s]["rate"] for at in about["ladder"]]
        falls.append(value)
        axes.plot(steps, value, color=GREY, ls=dash, lw=1.1, zorder=1)
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
    axes.set_xlabel(f"step along -g, relative to |θ|\n{before}", fontsize=7)
    axes.set_ylabel("fall of the deployed loss")


def _broken(name: str, width: int = 22) -> str:
    """Return a long name on two lines."""
    return name if len(name) <= width else name.replace("+", "\n+", 1)

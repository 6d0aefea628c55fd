"""Figure of the probe of a search's gradient: fidelity over the temperature, and the losses along a line."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.style import BLACK, BLUE, GREEN, ORANGE, PAGE, PURPLE, SKY, VERMILION, look
from gradprobe.vlm.search.gradient.projected import Probed

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
HEIGHT = 2.5  # inches a point


def gradient_figure(rows: Sequence[dict[str, Any]], probed: Sequence[Probed], title: str) -> Figure:
    """Draw a row of two panels for each point.

    Args:
        rows: As `gradprobe.vlm.search.gradient.result.SearchGradient.rows` makes them.
        probed: Arrays of the points, for the line.
        title: Above all panels.
    """
    with look():
        figure = Figure(figsize=(PAGE, 0.4 + HEIGHT * len(probed)))
        figure.suptitle(title, x=0.01, ha="left")
        panels = figure.subplots(len(probed), 2, squeeze=False)
        for (left, right), point in zip(panels, probed, strict=True):
            own = [row for row in rows if row["at"] == point.label and row["gradient"] == "relaxed"]
            _cosines(left, own)
            _losses(right, point, [row["softness"] for row in own])
            left.set_title(legend_label(f"{point.label}: {', '.join(map(str, point.whole))}"))
    return figure


def _cosines(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    softness = [row["softness"] for row in rows]
    for s, first in enumerate(rows[0]["sigmas"]):
        shift = 1.06 ** (s - (len(rows[0]["sigmas"]) - 1) / 2)
        for name, marker, words in (("tangent", "o", "tangent"), ("cosine", "D", "whole")):
            known = [(x, row["sigmas"][s]) for x, row in zip(softness, rows, strict=True)]
            known = [(x, at) for x, at in known if at[name] is not None]
            if not known:
                continue
            values = np.array([[at[f"{name}{end}"] for end in ("", "_low", "_high")] for _, at in known], float)
            places = np.array([x for x, _ in known]) * shift * (1.12 if name == "cosine" else 1)
            errors = np.abs(values[:, 1:] - values[:, :1]).T
            label = f"{words}, σ = {first['sigma']:g} tokens"
            paint: dict[str, Any] = {"color": COLOURS[s % len(COLOURS)], "mfc": "white"} if name == "cosine" else {}
            style = {"color": COLOURS[s % len(COLOURS)], "ms": 4, "lw": 0.8, "fmt": marker, "label": label}
            axes.errorbar(places, values[:, 0], yerr=errors, **{**style, **paint})
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(softness, [f"{each:g}" for each in softness])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlabel("softness of the relaxed schedule")
    axes.set_ylabel("cosine with the deployed gradient")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def _losses(axes: Axes, point: Probed, softness: Sequence[float]) -> None:
    axes.plot(point.line, point.line_deployed.mean(1), color=BLACK, linewidth=1.6, label="deployed")
    for t, each in enumerate(softness):
        colour = COLOURS[t % len(COLOURS)]
        axes.plot(point.line, point.line_relaxed[t].mean(1), color=colour, label=f"softness {each:g}")
    axes.set_xlabel("tokens along a line in the budget's tangent plane")
    axes.set_ylabel("caption loss, held out")
    axes.legend(loc="best")

"""A figure of plain numbers: dots with their intervals, a panel a number, a line an operator."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradprobe.errors import UsageError
from gradprobe.plotting.style import BLUE, GREY, PAGE, look


@dataclass(frozen=True)
class Dot:
    """Value on the line of a name, with the ends of its interval; None where there is none."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """Dots of one number under its heading."""

    heading: str
    dots: Sequence[Dot]


def dots_figure(panels: Sequence[Panel], title: str = "") -> Figure:
    """Draw panels beside each other whose lines have the same names; a name may have several dots.

    Args:
        panels: at least one dot in all. A value that is None is written, not drawn as 0.
        title: above the panels.

    Raises:
        UsageError: there is nothing to draw.
    """
    names = list(dict.fromkeys(dot.name for panel in panels for dot in panel.dots))
    if not names:
        raise UsageError(f"nothing to draw{f' of {title}' if title else ''}: there is no number")
    with look():
        figure = Figure(figsize=(PAGE * min(1, 0.4 + 0.2 * len(panels)), 0.85 + 0.24 * len(names)))
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            for dot in panel.dots:
                y = names.index(dot.name)
                if dot.value is None:
                    axes.text(0.5, y, "–", transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY)
                    continue
                if dot.low is not None and dot.high is not None:
                    axes.plot([dot.low, dot.high], [y, y], color=BLUE)
                axes.plot(dot.value, y, "o", ms=4, color=BLUE)
            axes.set_xlabel(panel.heading)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x")
        grid[0].set_yticks(range(len(names)), names)
        grid[0].set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure

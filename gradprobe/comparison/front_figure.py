"""Front of schedules as a figure and as a table: loss over FLOPs, and the difference from the grid's best."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich import box
from rich.table import Table

from gradprobe.comparison.front import ONE_STEP, Front, verdicts
from gradprobe.plotting.columns import number, seeds
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, PAGE, PURPLE, VERMILION, look
from gradprobe.vlm.schedule import GRID
from gradprobe.vlm.schedule.view import counts_of

COLOURS = {"step": VERMILION, "steps:m=2": PURPLE, "steps:m=3": GREEN, "free": BLUE, GRID: GREY}
MARKS = {"step": "v", "steps:m=2": "s", "steps:m=3": "D", "free": "o", GRID: "X"}
NAMES = {"step": "one-step search", "steps:m=2": "two-step search", "steps:m=3": "three-step search",
         "free": "free search", GRID: "best of the grid"}  # fmt: skip
PANELS, LINE, WIDTH = 4.3, 0.117, 150  # inches of the panels and of a line of text; characters of such a line
APART = 0.017  # distance of neighbouring kernels at a budget, in shares of FLOPs


def front_figure(front: Front, title: str, claim: str) -> Figure:
    """Draw loss over FLOPs and, below, the loss less that of the grid's best within the budget, a column a selector.

    Means over seeds with 95 % intervals, differences with each seed as a small dot; the verdicts stand below.

    Args:
        front: Answers, as `gradprobe.comparison.front.front_of` groups them.
        title: Above the panels.
        claim: The paper's claim, for the caption.
    """
    lines = _caption(front, claim)
    heights = [PANELS, 0.1 + LINE * len(lines)]
    with look():
        figure = Figure(figsize=(PAGE, sum(heights)))
        above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
        grid = above.subplots(2, len(front.selectors), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
        for i, selector in enumerate(front.selectors):
            _losses(grid[0, i], front, selector)
            _differences(grid[1, i], front, selector)
            grid[0, i].set_title(selector)
            grid[1, i].set_xlabel("budget: share of the FLOPs of all visual tokens")
        grid[0, 0].set_ylabel("caption loss, fresh images")
        grid[1, 0].set_ylabel("less the grid's best")
        grid[0, 0].set_ylim(bottom=0)
        above.legend(handles=_handles(front), loc="outside lower center", ncols=len(front.kernels) + 1)
        above.suptitle(title, x=0.01, ha="left", fontweight="bold")
        below.text(0.01, 1 - 0.04 / heights[1], "\n".join(lines), va="top", fontsize=6, linespacing=1.35)
    return figure


def front_tables(front: Front) -> list[Table]:
    """Tabulate the schedules of each selector with their differences from the grid's best and from one step.

    The tables fit into 80 columns.
    """
    return [_table(front, selector) for selector in front.selectors]


def _table(front: Front, selector: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), title=selector, title_justify="left")
    for name in ("budget", "kernel", "share", "tokens", "loss", "less grid's", "less step's"):
        table.add_column(name, justify="left" if name in ("kernel", "tokens") else "right")
    for budget in front.budgets:
        shown = f"{budget:g}"
        for kernel in front.kernels:
            if (row := front.row(selector, kernel, budget)) is not None:
                others = [_difference(front, selector, kernel, budget, other) for other in (GRID, ONE_STEP)]
                numbers = number(row["share"], 3), counts_of(row), number(row["loss"], 3)
                table.add_row(shown, kernel, *numbers, *others)
                shown = ""
        table.add_section()
    return table


def columns(front: Front) -> str:
    """Return the words for the columns of the tables."""
    more = "; tokens: of each layer with the first seed (+ seeds' others)" if front.seeds > 1 else ""
    return (
        f"loss: of captions of fresh images, mean over at most {seeds(front.seeds)}; differences are paired by image, "
        f"± half of the 95 % interval{more}"
    )


def _difference(front: Front, selector: str, kernel: str, budget: float, other: str) -> str:
    if kernel in (GRID, other) or other not in front.kernels:
        return ""
    row = front.row(selector, kernel, budget, other)
    if row is None or not row["difference_seeds"]:
        return ""
    low, high = row["difference_low"], row["difference_high"]
    half = "" if low is None or high is None else f" ±{(high - low) / 2:.3f}"
    return f"{row['difference']:+.3f}{half}"


def _losses(axes: Axes, front: Front, selector: str) -> None:
    """Draw the losses at the shares that the schedules take, and the front of the grid's best."""
    for kernel in reversed(front.kernels):
        rows = [row for budget in front.budgets if (row := front.row(selector, kernel, budget)) is not None]
        if kernel == GRID and rows:
            ends = [*(row["share"] for row in rows), max(front.budgets)]
            axes.step(ends, [*(row["loss"] for row in rows), rows[-1]["loss"]], where="post", color=GREY, zorder=1)
        for row in rows:
            _mark(axes, row["share"], row, "loss", kernel)
    if np.isfinite(whole := front.whole(selector)):
        axes.axhline(whole, color=BLACK, linestyle=":", linewidth=0.9)
    axes.grid(axis="y")


def _differences(axes: Axes, front: Front, selector: str) -> None:
    """Draw the differences from the grid's best with each seed, the kernels of a budget beside each other."""
    kernels = [kernel for kernel in front.kernels if kernel != GRID]
    for i, kernel in enumerate(kernels):
        for budget in front.budgets:
            row = front.row(selector, kernel, budget, GRID)
            if row is not None and (each := row["difference_by_seed"]):
                x = budget + APART * (i - (len(kernels) - 1) / 2)
                axes.plot(np.full(len(each), x + APART / 3), each, "o", ms=2.2, mew=0, alpha=0.5, color=COLOURS[kernel])
                _mark(axes, x, row, "difference", kernel)
    ends = front.budgets[0] - 2 * APART, front.budgets[-1] + 2 * APART
    axes.plot(ends, [0, 0], color=GREY, linewidth=0.8, zorder=1)
    axes.set_xticks(front.budgets, [f"{budget:g}" for budget in front.budgets])
    axes.grid(axis="y")


def _mark(axes: Axes, x: float, row: dict[str, Any], name: str, kernel: str) -> None:
    """Draw a mean with its interval, if it has one."""
    paint: dict[str, Any] = {"color": COLOURS[kernel]}
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is not None and high is not None:
        axes.plot([x, x], [low, high], linewidth=1.1, zorder=3, **paint)
    axes.plot([x], [row[name]], MARKS[kernel], ms=4.4, mec="white", mew=0.5, zorder=4, **paint)


def _handles(front: Front) -> list[Line2D]:
    marks: list[Line2D] = []
    for kernel in front.kernels:
        paint: dict[str, Any] = {"color": COLOURS[kernel], "marker": MARKS[kernel], "mec": "white", "mew": 0.5}
        marks.append(Line2D([], [], ls="-" if kernel == GRID else "", lw=0.8, ms=5, label=NAMES[kernel], **paint))
    return [*marks, Line2D([], [], color=BLACK, ls=":", lw=0.9, label="all tokens")]


def _caption(front: Front, claim: str) -> Sequence[str]:
    """Return the lines below the panels: verdicts, the rule behind them, and the paper's claim."""
    told = verdicts(front)
    for kernel in front.kernels:  # as the key says it
        told = [NAMES[kernel] + each.removeprefix(kernel) if each.startswith(f"{kernel} ") else each for each in told]
    whole = [each.replace(" %", "\u00a0%") for each in (*told, f"Paper: {claim}")]
    return [line for each in whole for line in textwrap.wrap(each, WIDTH, subsequent_indent="    ")]

"""Figure of retention over K, with the training curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row, name_of
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.style import BLACK, COLOURS, GREY, OTHERS, PAGE, look
from gradprobe.probes.retention.result import RetentionResult, over_seeds, seed_groups
from gradprobe.probes.retention.view import is_ranking

DASHES: tuple[Any, ...] = ((0, (1, 1.2)), (0, (3, 1.5)), (0, (6, 1.5)), (0, (6, 1.5, 1, 1.5)))
MARKS = "osD^vP"
ALL = "all N tokens"
APART = 0.012  # how far operators stand beside each other, as a share of the axis
Panel = tuple[str, Sequence[RetentionResult]]
Grouped = Sequence[tuple[Row, Sequence[RetentionResult]]]  # rows, each with the results of its seeds


def figure(results: Sequence[RetentionResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the retention of one model, see `retention_figure`; the rows name the operators.

    Args:
        results: of all operators, rankings, K and seeds.
        rows: one for each of their `seed_groups`.
        title: above the panel.

    Raises:
        UsageError: no results.
    """
    return _draw([title], [list(zip(rows, seed_groups(results), strict=True))])


def retention_figure(panels: Sequence[Panel]) -> Figure:
    """Draw retention over K for each operator, a panel a model, and below it the training curves at the least K.

    Small marks are seeds, lines join their means; rankings that need no training are grey and dashed. A training curve
    is the accuracy with hard top-K on the first test images, mean over seeds in bold.

    Args:
        panels: a name and the results of one model each.

    Raises:
        UsageError: no results.
    """
    grouped = [[(over_seeds(group), group) for group in seed_groups(results)] for _, results in panels]
    return _draw([name for name, _ in panels], grouped)


def _draw(titles: Sequence[str], panels: Sequence[Grouped]) -> Figure:
    if not panels or not all(panels):
        raise UsageError("no retention to draw; give at least one result")
    names = list(dict.fromkeys(name_of(row) for each in panels for row, _ in each if not is_ranking(row)))
    ranks = list(dict.fromkeys(name_of(row) for each in panels for row, _ in each if is_ranking(row)))
    free = iter(OTHERS * len(names))
    colours = {name: COLOURS.get(name) or next(free) for name in names}
    lines = -(-(len(names) + len(ranks) + 1) // 3)
    with look():
        figure = Figure(figsize=(PAGE * min(1.0, 0.3 + 0.35 * len(panels)), 4.4 + 0.17 * lines))
        grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=[1.25, 1])
        for (over, curves), title, each in zip(grid.T, titles, panels, strict=True):
            _over_k(over, each, colours, {rank: DASHES[i % len(DASHES)] for i, rank in enumerate(ranks)})
            _curves(curves, each, colours)
            over.set_title(title)
        grid[0, 0].set_ylabel("retention")
        grid[1, 0].set_ylabel("accuracy, hard top-K")
        legends = [axes.get_legend_handles_labels() for axes in grid[0]]
        marks = {text: mark for marks, texts in legends for mark, text in zip(marks, texts, strict=True)}
        texts = [*names, *ranks, ALL]
        figure.legend([marks[t] for t in texts], texts, loc="outside lower center", ncols=3)
    return figure


def _over_k(axes: Axes, grouped: Grouped, colours: Mapping[str, str], dashes: Mapping[str, Any]) -> None:
    budgets = sorted({row["k"] for row, _ in grouped})
    left, right = budgets[0] / 1.25, budgets[-1] * 1.25
    for i, (name, colour) in enumerate(colours.items()):
        rows = _of(name, grouped)
        at = np.array([row["k"] * (right / left) ** (APART * (i - (len(colours) - 1) / 2)) for row in rows])
        marker: dict[str, Any] = {"marker": MARKS[i % len(MARKS)], "ms": 4, "mec": "white", "mew": 0.4}
        axes.plot(at, _values(rows), color=colour, label=legend_label(name), **marker)
        for x, row in zip(at, rows, strict=True):
            seeds = np.array([np.nan if v is None else v for v in row["by_seed"]])
            axes.plot(np.full(len(seeds), x), seeds, ".", color=colour, ms=2.5, alpha=0.6)
    for name, dash in dashes.items():
        rows = _of(name, grouped)
        alone: dict[str, Any] = {"marker": "_", "ms": 14} if len(budgets) == 1 else {}
        axes.plot(
            [row["k"] for row in rows], _values(rows), color=GREY, linestyle=dash, label=legend_label(name), **alone
        )
        if alone and rows:  # single marks have no dashes to be told by
            end = (rows[0]["k"], float(_values(rows)[0]))
            axes.annotate(name, end, (10, 0), textcoords="offset points", va="center", fontsize=6.5, color=GREY)
    axes.set_xscale("log")
    axes.set_xticks(budgets, [str(k) for k in budgets])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left, right)
    axes.axhline(1, color=BLACK, linewidth=0.6, label=ALL)
    axes.set_ylim(0, max(1.05, 1.05 * np.nanmax([v or 0 for row, _ in grouped for v in row["by_seed"]])))
    axes.set_xlabel("K, tokens kept; dots are seeds")
    axes.grid(axis="y")


def _curves(axes: Axes, grouped: Grouped, colours: Mapping[str, str]) -> None:
    trained = [(row, group) for row, group in grouped if not is_ranking(row)]
    if not trained:
        axes.set_axis_off()
        return
    least, highest = min(row["k"] for row, _ in trained), 0.01
    for row, group in trained:
        if row["k"] != least:
            continue
        colour, each = colours[name_of(row)], [result.curve.mean(1) for result in group]
        for result, curve in zip(group, each, strict=True):
            axes.plot(result.at, curve, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(group[0].at, np.mean(each, 0), color=colour, linewidth=1.4)
        highest = max(highest, np.max(each))
    unpruned = np.mean([row["unpruned"] for row, _ in trained])
    axes.axhline(unpruned, color=BLACK, linewidth=0.6)
    axes.set_ylim(0, 1.05 * max(unpruned, highest))
    axes.set_xlabel(f"training steps, K = {least}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")


def _of(name: str, grouped: Grouped) -> list[Row]:
    return sorted((row for row, _ in grouped if name_of(row) == name), key=lambda row: row["k"])


def _values(rows: Sequence[Row]) -> np.ndarray:
    return np.array([np.nan if row["retention"] is None else row["retention"] for row in rows], float)

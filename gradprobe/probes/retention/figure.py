"""Figure of retention over K, with the training curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradprobe.errors import UsageError
from gradprobe.plotting.colours import colours_of
from gradprobe.plotting.columns import Row, name_of
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.style import BLACK, GREY, PAGE, look
from gradprobe.probes.retention.result import RetentionResult, over_seeds, seed_groups
from gradprobe.probes.retention.view import is_ranking

DASHES: tuple[Any, ...] = ((0, (1, 1.2)), (0, (3, 1.5)), (0, (6, 1.5)), (0, (6, 1.5, 1, 1.5)))
MARKS = "osD^vP"
ALL = "all N tokens"
WIDTH = 0.8  # of the marks of a K, of the distance of two K
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
    """Draw the retention of each operator at each K, a panel a model, and below it the training curves at one K.

    Marks are means, with their interval where there is one, small dots the seeds; rankings that need no training are
    grey and dashed. Nothing joins the K: what lies between is not measured. A training curve is the accuracy with hard
    top-K on the first test images, mean over seeds in bold, at the K where the operators are furthest apart.

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
    colours = colours_of(names)
    marks = {name: MARKS[i % len(MARKS)] for i, name in enumerate(names)}
    lines = -(-(len(names) + len(ranks) + 1) // 3)
    with look():
        figure = Figure(figsize=(PAGE * min(1.0, 0.3 + 0.35 * len(panels)), 4.4 + 0.17 * lines))
        grid = figure.add_gridspec(2, len(panels), height_ratios=[1.25, 1])
        legends = []
        for i, (title, each) in enumerate(zip(titles, panels, strict=True)):
            trained = any(not is_ranking(row) for row, _ in each)
            over = figure.add_subplot(grid[0, i] if trained else grid[:, i])
            _at_each_k(over, each, colours, marks, {rank: DASHES[j % len(DASHES)] for j, rank in enumerate(ranks)})
            over.set_title(title)
            over.set_ylabel("" if i else "retention")
            legends.append(over.get_legend_handles_labels())
            if trained:
                curves = figure.add_subplot(grid[1, i])
                _curves(curves, each, colours)
                curves.set_ylabel("" if i else "accuracy, hard top-K")
        handles = {text: mark for marks, texts in legends for mark, text in zip(marks, texts, strict=True)}
        texts = [*(legend_label(name) for name in (*names, *ranks)), ALL]
        figure.legend([handles[t] for t in texts], texts, loc="outside lower center", ncols=3)
    return figure


def _at_each_k(
    axes: Axes, grouped: Grouped, colours: Mapping[str, str], marks: Mapping[str, str], dashes: Mapping[str, Any]
) -> None:
    """Draw the operators of a panel beside each other at each K, and the rankings across them."""
    budgets = sorted({row["k"] for row, _ in grouped})
    here = [name for name in colours if _of(name, grouped)]
    for i, name in enumerate(here):
        rows = _of(name, grouped)
        at = np.array([budgets.index(row["k"]) + WIDTH * ((i + 0.5) / len(here) - 0.5) for row in rows])
        for x, row in zip(at, rows, strict=True):
            seeds = np.array([np.nan if v is None else v for v in row["by_seed"]])
            axes.plot(np.full(len(seeds), x), seeds, ".", color=colours[name], ms=3, alpha=0.6)
            if row["low"] is not None and row["high"] is not None and len(seeds) > 1:
                axes.plot([x, x], [row["low"], row["high"]], color=colours[name], linewidth=0.9)
        marker: dict[str, Any] = {"marker": marks[name], "ms": 4.5, "mec": "white", "mew": 0.4, "ls": ""}
        axes.plot(at, _values(rows), color=colours[name], label=legend_label(name), **marker)
    for name, dash in dashes.items():
        for row, value in zip(rows := _of(name, grouped), _values(rows), strict=True):
            at = budgets.index(row["k"]) + np.array([-0.6, 0.6]) * WIDTH
            axes.plot(at, [value] * 2, color=GREY, linestyle=dash, label=legend_label(name), zorder=1)
    axes.set_xticks(range(len(budgets)), [str(k) for k in budgets])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(budgets) - 0.4)
    axes.axhline(1, color=BLACK, linewidth=0.6, label=ALL, zorder=1)
    axes.set_ylim(0, max(1.05, 1.05 * np.nanmax([v or 0 for row, _ in grouped for v in row["by_seed"]])))
    axes.set_xlabel("K, tokens kept; small dots are seeds")
    axes.grid(axis="y")


def _curves(axes: Axes, grouped: Grouped, colours: Mapping[str, str]) -> None:
    trained = [(row, group) for row, group in grouped if not is_ranking(row)]
    shown, highest = _telling([row for row, _ in trained]), 0.01
    for row, group in trained:
        if row["k"] != shown:
            continue
        colour, each = colours[name_of(row)], [result.curve.mean(1) for result in group]
        for result, curve in zip(group, each, strict=True):
            axes.plot(result.at, curve, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(group[0].at, np.mean(each, 0), color=colour, linewidth=1.4)
        highest = max(highest, np.max(each))
    unpruned = np.mean([row["unpruned"] for row, _ in trained])
    axes.axhline(unpruned, color=BLACK, linewidth=0.6)
    axes.set_ylim(0, 1.05 * max(unpruned, highest))
    axes.set_xlabel(f"training steps, K = {shown}; thin: each seed")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")


def _telling(rows: Sequence[Row]) -> int:
    """Return the K at which the operators' means are furthest apart, the least of several."""
    by_k = {k: _values([row for row in rows if row["k"] == k]) for k in sorted({row["k"] for row in rows})}
    known = {k: values[np.isfinite(values)] for k, values in by_k.items()}
    return max(known, key=lambda k: float(np.ptp(known[k])) if len(known[k]) else 0.0)


def _of(name: str, grouped: Grouped) -> list[Row]:
    return sorted((row for row, _ in grouped if name_of(row) == name), key=lambda row: row["k"])


def _values(rows: Sequence[Row]) -> np.ndarray:
    return np.array([np.nan if row["retention"] is None else row["retention"] for row in rows], float)

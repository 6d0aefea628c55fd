"""Figures of gradient coherence: bars of a question's operators, and the paper's Figure 1c beside our panels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradprobe.plotting.colours import colours_of
from gradprobe.plotting.columns import Row, names, number
from gradprobe.plotting.escape import legend_label
from gradprobe.plotting.style import BLACK, BLUE, GREY, INTERVAL, ORANGE, PAGE, SKY, look
from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.probes.coherence.view import setting, verdict

Panel = tuple[str, Sequence[Row]]


def coherence_figure(results: Sequence[CoherenceResult], rows: Sequence[Row], title: str) -> Figure:
    """Draw the figure of the command.

    Args:
        results: one an operator.
        rows: of the results.
        title: model and budget; the batches are added.
    """
    return coherence_bars(rows, f"{title}, {rows[0]['batches']} batches of {rows[0]['batch_size']}")


def coherence_bars(rows: Sequence[Row], title: str) -> Figure:
    """Draw the coherence of each operator, raw and without the common mode, with 95 % intervals.

    Args:
        rows: as `CoherenceResult.row` makes them; one without gradient is written, not drawn as 0.
        title: above the axes.
    """
    with look():
        figure = Figure(figsize=(5.4, 0.95 + 0.36 * len(rows)))
        axes = figure.subplots()
        _lying_bars(axes, rows)
        axes.set_xlabel(f"gradient coherence C, 95 % intervals\n{setting(rows)}")
        axes.set_title(title)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def operators(panels: Sequence[Panel], paper: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the coherence of many operators, raw and without the common mode, two panels beside each other on one axis.

    Args:
        panels: a name and the rows of one scorer each, drawn in reading order.
        paper: not drawn; every figure of a preset takes it.
    """
    columns = min(2, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(len(rows) for _, rows in line) + 2 for line in lines]
    with look():
        figure = Figure(figsize=(PAGE * (0.5 + columns / 4), 0.6 + 0.25 * sum(heights)))
        grid = figure.subplots(len(lines), columns, sharex=True, squeeze=False, height_ratios=heights)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (name, rows) in zip(grid.flat, panels, strict=False):
            _lying_bars(axes, rows)
            axes.set_title(name)
        every = [row for _, rows in panels for row in rows]
        low, high = _limits(every, ("low", "high", "centred_low", "centred_high", "coherence", "centred"))
        grid[0, 0].set_xlim(low, high)
        figure.supxlabel(f"gradient coherence C, 95 % intervals; {setting(every)}", fontsize=8)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _lying_bars(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw horizontal bars of raw and centred coherence, the first row on top; absent ones are written, not drawn."""
    places = np.arange(len(rows))
    for name, field, shift, colour in (("raw", "coherence", -0.19, BLUE), ("centred", "centred", 0.19, SKY)):
        shown = [(y, row) for y, row in zip(places, rows, strict=True) if _drawn(row, field)]
        low, high = ("low", "high") if field == "coherence" else ("centred_low", "centred_high")
        values = np.array([row[field] for _, row in shown], float)
        at = np.array([y for y, _ in shown], float) + shift
        axes.barh(at, values, 0.36, color=colour, label=legend_label(name))
        axes.errorbar(values, at, xerr=_errors([row for _, row in shown], field, low, high), **INTERVAL)
    for y, row in zip(places, rows, strict=True):
        if not _drawn(row, "coherence"):
            axes.text(0, float(y), f" {_absent(row)}", va="center", color=GREY)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(places, names(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*_limits(rows, ("low", "high", "centred_low", "centred_high", "coherence", "centred")))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def fig1c(panels: Sequence[Panel], paper: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the paper's Figure 1c beside our panels on one axis: gradient coherence, and its ratio to the baseline.

    Args:
        panels: a name and the rows of one model each; rows of other training steps stand apart.
        paper: ``model``, ``gumbel``, ``diffprune`` and ``ratio``, read off the paper's chart (no intervals there).

    Source: DiffPrune, Fig. 1c.
    """
    groups = [group for name, rows in panels for group in _groups(name, rows)]
    operators = list(dict.fromkeys(str(row["op"]) for _, rows in groups for row in rows))
    colours = colours_of(operators)
    upright = any(len(_compared(rows)) > 1 for _, rows in groups)  # more ratios than fit beside each other
    with look():
        figure = Figure(figsize=(PAGE, 3.0))
        units = sum(len(rows) + 1 for _, rows in groups)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[max(9, units / 3), max(9, units)])
        _paper_bars(left, paper)
        _our_bars(right, groups, colours)
        rows = [row for _, rows in groups for row in rows]
        low, high = _limits(rows, ("low", "high", "coherence", "centred"), [p["diffprune"] for p in paper])
        left.set_ylim(low, high + (0.4 if upright else 0.12) * (high - low))  # room for the ratios
        left.set_ylabel("gradient coherence C")
        left.set_title("paper")
        left.set_xlabel("read off the chart")
        right.set_title("gradprobe")
        right.set_xlabel(f"{_settings(panels)}\n95 % intervals")
        for axes in (left, right):
            axes.axhline(0, color=BLACK, linewidth=0.8)
            axes.grid(axis="y")
            axes.tick_params(axis="x", length=0)
        legends = [axes.get_legend_handles_labels() for axes in (right, left)]
        both = {text: mark for marks, texts in legends for mark, text in zip(marks, texts, strict=True)}
        texts = sorted(both, key="centred".__eq__)
        columns = len(both) if len(both) < 5 else (len(both) + 1) // 2
        figure.legend([both[text] for text in texts], texts, loc="outside lower center", ncols=min(columns, 4))
    return figure


def _paper_bars(axes: Axes, paper: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(paper)) * 3.0
    for field, label, shift, colour in (("gumbel", "Gumbel", -0.5, ORANGE), ("diffprune", "DiffPrune", 0.5, BLUE)):
        paint: dict[str, Any] = {"facecolor": "white", "edgecolor": colour, "hatch": "////"}  # hatched: not ours
        axes.bar(places + shift, [p[field] for p in paper], 1.0, label=f"{label}, paper", **paint)
    for place, values in zip(places, paper, strict=True):
        _above(axes, place, values["diffprune"], f"{values['ratio']:g}×")
    axes.set_xticks(places, [p["model"] for p in paper])
    axes.set_xlim(-1.5, places[-1] + 1.5 if len(paper) else 1.5)


def _our_bars(axes: Axes, groups: Sequence[Panel], colours: Mapping[str, str]) -> None:
    start, ticks = 0.0, []
    for _, rows in groups:
        at = start + np.arange(len(rows))
        ticks.append(float(at.mean()))
        compared = _compared(rows)
        for x, row in zip(at, rows, strict=True):
            if not _drawn(row, "coherence"):
                axes.text(x, 0, f" {row['op']}: {_absent(row)}", ha="center", va="bottom", rotation=90, color=GREY)
                continue
            axes.bar(x, row["coherence"], 1.0, color=colours[row["op"]], label=legend_label(row["op"]))
            axes.errorbar(x, row["coherence"], yerr=_errors([row], "coherence", "low", "high"), **INTERVAL)
            if row["centred"] is not None:
                axes.plot(x + 0.3, row["centred"], "D", ms=3.2, mfc="white", mec=BLACK, mew=0.7, label="centred")
            text = verdict(row)[0] if row["ratio"] is None else f"{number(row['ratio'], 1 + (abs(row['ratio']) < 1))}×"
            if row in compared and len(compared) == 1:
                _above(axes, ticks[-1], max(_top(r) for r in rows), text)
            elif row in compared:
                _above(axes, x, _top(row), text, rotation=90)
        start = at[-1] + 2
    axes.set_xticks(ticks, [name for name, _ in groups])
    axes.set_xlim(-1, max(start - 1, 1))


def _settings(panels: Sequence[Panel]) -> str:
    """Return the sizes behind the bars, with the models of each where they differ."""
    models: dict[str, dict[str, None]] = {}
    for name, rows in panels:
        models.setdefault(setting(rows), {})[name.split()[0]] = None
    return "\n".join(text if len(models) == 1 else f"{', '.join(of)}: {text}" for text, of in models.items())


def _groups(name: str, rows: Sequence[Row]) -> list[Panel]:
    """Group a panel's rows by training steps."""
    steps = list(dict.fromkeys(row["steps"] for row in rows))
    label = (lambda s: f"{name}\n{s} steps") if len(steps) > 1 else (lambda s: name)
    return [(label(s), [row for row in rows if row["steps"] == s]) for s in steps]


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have a ratio, or a reason for having none, above them."""
    return [r for r in rows if _drawn(r, "coherence") and (r["ratio"] is not None or verdict(r)[0])]


def _above(axes: Axes, x: float, y: float, text: str, rotation: float = 0) -> None:
    axes.annotate(
        text,
        (x, max(y, 0)),
        (0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        rotation=rotation,
    )


def _top(row: Row) -> float:
    """Return the upper end of a row's bar and interval."""
    return max((row[name] for name in ("coherence", "high", "centred") if row[name] is not None), default=0.0)


def _drawn(row: Row, field: str) -> bool:
    return row["gradient"] != "none" and row[field] is not None


def _absent(row: Row) -> str:
    return "no gradient" if row["gradient"] == "none" else "undefined"


def _errors(rows: Sequence[Row], value: str, low: str, high: str) -> np.ndarray:
    """Distances to both ends of the interval, ``(2, rows)``; 0 where there is none."""
    ends = [[(r[value] - r[low], r[high] - r[value]) if r[low] is not None else (0.0, 0.0)] for r in rows]
    return np.array(ends, float).reshape(-1, 2).T


def _limits(rows: Sequence[Row], fields: Sequence[str], more: Sequence[float] = ()) -> tuple[float, float]:
    """Return the ends of an axis that shows zero and all intervals, within [-1, 1]."""
    values = [row[name] for row in rows for name in fields if row[name] is not None and row["gradient"] != "none"]
    low, high = min([0.0, *values, *more]), max([0.05, *values, *more])
    pad = 0.04 * (high - low)
    return max(low - pad, -1.05) if low < 0 else 0.0, min(high + pad, 1.05)

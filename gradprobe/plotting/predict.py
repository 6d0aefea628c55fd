"""Do measures of the start predict what is retained at the end? One panel a measure, one point an operator."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradprobe.plotting.equivalence import family
from gradprobe.plotting.style import BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, VERMILION, look
from gradprobe.plotting.tables import number
from gradprobe.statistics import Estimate, rank_correlation

Point = Mapping[str, Any]
COLOURS = {"gather": ORANGE, "zero": VERMILION, "scale": GREEN, "mean": GREY, "attention": PURPLE}  # by throttle
COLUMNS = 4
ASIDE = ((0, 7), (0, -7), (0, 12), (0, -12))  # points
END, DURING = "retention", "during"


def points(results: Sequence[Any]) -> list[Point]:
    """Each operator's measures at the start and what it retained, means over seeds.

    Operators are matched without their tau: measured at the temperature at which training begins, trained with one that
    falls. A seed for which a measure is undefined (the gradient is not told from noise) does not count; None if all.

    Args:
        results: of the coherence, fidelity and retention probes, any seeds.

    Returns:
        ``op``, ``retention`` (at the end), ``during`` (mean over the training curve), and ``measures`` by name.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for result in results:
        values = found.setdefault(family(result.question["op"]), {})
        for name, value in _MEASURES[result.probe](result).items():
            values.setdefault(name, []).append(value)
    return [
        {
            "op": op, END: float(np.mean(values[END])), DURING: float(np.mean(values[DURING])),
            "measures": {n: _mean(v) for n, v in values.items() if n not in (END, DURING)},
        }
        for op, values in found.items() if END in values
    ]  # fmt: skip


def correlations(drawn: Sequence[Point], of: str = END) -> dict[str, tuple[Estimate, int]]:
    """Rank correlation of each measure with what is retained, and how many operators have the measure."""
    rows = {}
    for name in dict.fromkeys(n for point in drawn for n in point["measures"]):
        pairs = [(p["measures"][name], p[of]) for p in drawn if p["measures"].get(name) is not None]
        x, y = np.array(pairs, float).reshape(-1, 2).T
        rows[name] = rank_correlation(x, y), len(pairs)
    return rows


def predict(results: Sequence[Any]) -> Figure:
    """Retention over each measure of the start, an operator a point, with rank correlations and their intervals.

    ``end``: with the retention at the end; ``during``: with its mean over the training curve.

    Args:
        results: of the coherence, fidelity and retention probes.
    """
    drawn = points(results)
    end, during = correlations(drawn), correlations(drawn, DURING)
    rows = -(-(len(end) + 2) // COLUMNS)
    with look():
        figure = Figure(figsize=(PAGE, 1.75 * rows))
        grid = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
        for axes, name in zip(grid, end, strict=False):
            _panel(axes, name, drawn)
            axes.set_title(f"end {_told(end[name])}\nduring {_told(during[name])}", fontsize=6, fontweight="normal")
        for axes in grid[::COLUMNS]:
            axes.set_ylabel("retention at the end")
        for axes in grid[len(end) :]:
            axes.set_axis_off()
        lines = [f"{i + 1:2d}  {p['op']}" for i, p in enumerate(drawn)]
        grid[len(end)].text(0, 1, "\n".join(lines), va="top", fontsize=5.5, transform=grid[len(end)].transAxes)
    return figure


def _panel(axes: Axes, name: str, drawn: Sequence[Point]) -> None:
    shown = [(i, p) for i, p in enumerate(drawn) if p["measures"].get(name) is not None]
    shown.sort(key=lambda pair: pair[1]["measures"][name])
    for turn, (i, point) in enumerate(shown):
        colour = COLOURS.get(point["op"].partition("+")[2].partition(":")[0], BLUE)
        x, y = point["measures"][name], point[END]
        axes.plot(x, y, "o", ms=3.5, color=colour)
        beside = ASIDE[turn % len(ASIDE)]  # neighbours' numbers apart
        axes.annotate(
            str(i + 1), (x, y), beside, textcoords="offset points", fontsize=5.5, color=colour, ha="center", va="center"
        )
    axes.set_xlabel(f"{name} (n = {len(shown)})", fontsize=6.5)
    axes.margins(0.12, 0.3)


def _told(found: tuple[Estimate, int]) -> str:
    rho = found[0]
    return "ρ undefined" if np.isnan(rho.value) else f"ρ = {number(rho.value)} [{number(rho.low)}, {number(rho.high)}]"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _of_coherence(result: Any) -> dict[str, Any]:
    row = result.row()
    return {"coherence C": row["coherence"], "centred C": row["centred"]}


def _of_fidelity(result: Any) -> dict[str, Any]:
    row = result.row()
    at = {f"fidelity, scores, σ = {s['sigma']:g}": s["cosine"] for s in row["sigmas"]}
    at |= {f"fidelity, scorer, σ = {s['sigma']:g}": s.get("theta") for s in row["sigmas"]}
    steps = (
        [row["ladder"][i] for i in sorted({len(row["ladder"]) // 2, len(row["ladder"]) - 1})] if row["ladder"] else []
    )
    return at | {f"descent, step {step['step']:g}": step["rate"] for step in steps}


def _of_retention(result: Any) -> dict[str, Any]:
    unpruned = float(result.unpruned.mean())
    curve = result.curve[1:].mean() if len(result.curve) > 1 else result.correct.mean()
    return {END: float(result.correct.mean()) / unpruned, DURING: float(curve) / unpruned}


_MEASURES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "coherence": _of_coherence, "fidelity": _of_fidelity, "retention": _of_retention,
}  # fmt: skip

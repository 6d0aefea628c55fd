"""Do measures of the start go with what is retained at the end? One panel a measure, one point an operator and seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradprobe.operators.temperature import family
from gradprobe.plotting.columns import interval, number
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, VERMILION, look
from gradprobe.statistics.association import Association, Units, associations, difference
from gradprobe.statistics.estimates import Estimate

COLOURS = {"gather": ORANGE, "zero": VERMILION, "scale": GREEN, "mean": GREY, "attention": PURPLE}  # by throttle
COLUMNS = 4
ASIDE = ((0, 7), (0, -7), (0, 12), (0, -12))  # points
END, DURING = "retention", "during"
COHERENCE, ROUGHNESS = "coherence C", "roughness"
NAMED = ("fidelity, scorer, σ = 1", "descent, step 0.01")  # the two to be confirmed elsewhere; the rest explores
HALF = 3.92  # standard errors in a 95 % interval


def units_of(results: Sequence[Any], of: str = END) -> Units:
    """Operators under the seeds they were trained with: each one's measures at the start and what it retained.

    Operators are matched without their tau: measured at the temperature at which training begins, trained with one that
    falls. A measure is that of the same seed or, where the start was asked with other seeds, its mean over them.
    Cosines are the ungated ones (`statistics.agreement.ungated`), so that no operator drops out for being noisy.

    Args:
        results: of the coherence, fidelity, landscape and retention probes, any seeds.
        of: ``retention`` at the end, or ``during``: its mean over the training curve.
    """
    measures: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for result in results:
        values = measures.setdefault(family(result.question["op"]), {})
        for name, pair in _MEASURES[result.probe](result).items():
            values.setdefault(name, {})[result.question["seed"]] = pair
    rows = [(op, seed) for op, values in measures.items() for seed in values.get(of, ())]
    named = dict.fromkeys(name for op, _ in rows for name in measures[op] if name not in (END, DURING))
    pairs = {name: np.array([_of_seed(measures[op].get(name, {}), seed) for op, seed in rows]) for name in named}
    outcome = np.array([measures[op][of][seed] for op, seed in rows]).reshape(-1, 2)
    return Units(
        operator=tuple(op for op, _ in rows),
        throttle=tuple(throttle_of(op) for op, _ in rows),
        seed=tuple(seed for _, seed in rows),
        outcome=outcome[:, 0],
        outcome_error=outcome[:, 1],
        measures={name: each[:, 0] for name, each in pairs.items()},
        errors={name: each[:, 1] for name, each in pairs.items()},
    )


def predict(results: Sequence[Any]) -> Figure:
    """Retention over each measure of the start, with rank correlations; below, each correlation without a throttle.

    A small dot is an operator under one seed, a number its mean over seeds. ρ: rank correlation over operators and
    seeds with the interval of the hierarchical bootstrap; τ: Kendall's, outcomes within the noise of seeds tied; p: of
    permuting whole throttles. ``during``: with the mean over the training curve.

    Args:
        results: of the coherence, fidelity and retention probes.
    """
    import seaborn

    units = units_of(results)
    end, during = associations(units), associations(units_of(results, DURING))
    rows = -(-len(end) // COLUMNS)
    throttles = list(dict.fromkeys(units.throttle))
    height = 0.9 + 0.17 * max(len(end), 0.55 * len(set(units.operator)))
    with look():
        figure = Figure(figsize=(PAGE, 1.85 * rows + height))
        above, below = figure.subfigures(2, 1, height_ratios=[1.85 * rows, height], squeeze=False)[:, 0]
        grid = above.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
        for axes, name in zip(grid, end, strict=False):
            measure_panel(axes, name, units, list(dict.fromkeys(units.operator)))
            star = "* " if name in NAMED else ""
            title = f"{star}{told(end[name])}\nduring {_rho(during[name].rho)}"
            axes.set_title(title, fontsize=5.5, fontweight="normal")
        for axes in grid[::COLUMNS]:
            axes.set_ylabel("retention at the end")
        for axes in grid[len(end) :]:
            axes.set_axis_off()
        left, right = below.subplots(1, 2, width_ratios=[1.5, 1])
        table = np.array([[e.rho.value, *(e.without.get(t, np.nan) for t in throttles)] for e in end.values()])
        seaborn.heatmap(
            table, ax=left, vmin=-1, vmax=1, cmap="RdBu", annot=True, fmt=".2f", annot_kws={"fontsize": 5.5},
            cbar=False, xticklabels=["all", *(f"no {t}" for t in throttles)], yticklabels=list(end), linewidths=0.5,
        )  # fmt: skip
        left.tick_params(axis="x", labelsize=5.5, labelrotation=35, length=0)
        left.tick_params(axis="y", labelsize=5.5, length=0)
        left.set_title("ρ with the end, one throttle left out at a time", fontsize=6.5)
        right.set_axis_off()
        names = [f"{i + 1:2d}  {op}" for i, op in enumerate(dict.fromkeys(units.operator))]
        right.text(0, 1, "\n".join(names), va="top", fontsize=5.5, transform=right.transAxes)
        figure.supxlabel(_footnote(units), x=0.01, ha="left", fontsize=6, color=GREY)
    return figure


def differences(units: Units) -> dict[str, Estimate]:
    """Correlation of each of the two named measures less that of coherence, on the same operators."""
    return {name: difference(units, name, COHERENCE) for name in NAMED if {name, COHERENCE} <= units.measures.keys()}


def without(units: Units, throttle: str) -> Units:
    """Return the units without this throttle."""
    kept = np.array([t != throttle for t in units.throttle])

    def cut(values: Any) -> Any:
        return values[kept] if isinstance(values, np.ndarray) else tuple(np.array(values, object)[kept])

    return replace(
        units,
        operator=cut(units.operator),
        throttle=cut(units.throttle),
        seed=cut(units.seed),
        outcome=cut(units.outcome),
        outcome_error=cut(units.outcome_error),
        measures={n: cut(v) for n, v in units.measures.items()},
        errors={n: cut(v) for n, v in units.errors.items()},
    )


def throttle_of(op: str) -> str:
    """Return the throttle of an operator without its fields; the name itself of one that has no two parts.

    Example:
        >>> throttle_of("lapsum+vpnoise:sigma=unit"), throttle_of("my.py:Op")
        ('vpnoise', 'my.py:Op')
    """
    _, plus, throttle = op.rpartition("+")
    return throttle.partition(":")[0] if plus else op


def told(association: Association) -> str:
    """Return a correlation as a line: rho with its interval, tau and p; a dash where nothing varies."""
    p = "p < 0.001" if association.p < 0.001 else f"p {number(association.p, 3)}"
    return f"{_rho(association.rho)}, τ {number(association.tau)}, {p}"


def _rho(rho: Estimate) -> str:
    if np.isnan(rho.value):
        return "ρ undefined"
    return f"ρ = {interval(rho.value, rho.low, rho.high)}"


def _footnote(units: Units) -> str:
    lines = [
        "ρ over operators and seeds; bootstrap over throttle, operator | seed | images; p: whole throttles permuted"
    ]
    for name, each in differences(units).items():
        lines.append(f"{name} less {COHERENCE}, same operators: {interval(each.value, each.low, each.high)}")
    return "\n".join([*lines, "* to be confirmed on other operators, seeds and models; all else explores"])


def measure_panel(axes: Axes, name: str, units: Units, operators: Sequence[str]) -> None:
    """Draw retention over one measure: a dot an operator and seed, and the operator's number at its mean.

    Args:
        axes: Axes to draw in.
        name: Name of the measure.
        units: Operators under seeds.
        operators: Names in the order of their numbers.
    """
    values = units.measures[name]
    shown = []
    for i, op in enumerate(operators):
        own = np.array([other == op for other in units.operator]) & np.isfinite(values)
        if own.any():
            colour = COLOURS.get(throttle_of(op), BLUE)
            axes.plot(values[own], units.outcome[own], ".", ms=3, color=colour, mew=0)
            shown.append((values[own].mean(), units.outcome[own].mean(), i, colour))
    for turn, (x, y, i, colour) in enumerate(sorted(shown)):
        beside = ASIDE[turn % len(ASIDE)]  # neighbours' numbers apart
        axes.annotate(
            str(i + 1), (x, y), beside, textcoords="offset points", fontsize=5.5, color=colour, ha="center", va="center"
        )
    if name == ROUGHNESS:
        axes.set_xscale("log")
    else:
        axes.axvline(0, color=BLACK, lw=0.4, alpha=0.4, zorder=0)
    axes.set_xlabel(f"{name} (n = {len(shown)})", fontsize=6.5)
    axes.margins(0.12, 0.3)


def _of_seed(values: Mapping[int, tuple[float, float]], seed: int) -> tuple[float, float]:
    """Return a measure and its error under a seed; the mean over all seeds where this one was not measured."""
    if seed in values:
        return values[seed]
    known = np.array(list(values.values())).reshape(-1, 2)
    if not len(known):
        return np.nan, np.nan
    return float(known[:, 0].mean()), float(np.sqrt(np.mean(known[:, 1] ** 2) / len(known)))


def _pair(row: Mapping[str, Any], name: str, ends: tuple[str, str]) -> tuple[float, float]:
    """Return a number of a row and its standard error, NaN where it has none."""
    value, low, high = (np.nan if row.get(n) is None else float(row[n]) for n in (name, *ends))
    return value, (high - low) / HALF


def _of_coherence(result: Any) -> dict[str, tuple[float, float]]:
    row = result.row()
    return {
        COHERENCE: _pair(row, "coherence", ("low", "high")),
        "centred C": _pair(row, "centred", ("centred_low", "centred_high")),
    }


def _of_fidelity(result: Any) -> dict[str, tuple[float, float]]:
    row = result.row()
    at = {}
    for words, name in (("scores", "cosine"), ("scorer", "theta")):
        field = f"{name}_ungated"
        for s in row["sigmas"]:
            at[f"fidelity, {words}, σ = {s['sigma']:g}"] = _pair(s, field, (f"{field}_low", f"{field}_high"))
    steps = row["ladder"] and [row["ladder"][i] for i in sorted({len(row["ladder"]) // 2, len(row["ladder"]) - 1})]
    return at | {f"descent, step {step['step']:g}": _pair(step, "rate", ("rate_low", "rate_high")) for step in steps}


def _of_landscape(result: Any) -> dict[str, tuple[float, float]]:
    return {ROUGHNESS: _pair(result.row(), "d2_variation", ("d2_low", "d2_high"))}


def _of_retention(result: Any) -> dict[str, tuple[float, float]]:
    unpruned = float(result.unpruned.mean())
    right = float(result.correct.mean())
    curve = result.curve[1:].mean() if len(result.curve) > 1 else right
    error = float(np.sqrt(right * (1 - right) / len(result.correct))) / unpruned
    return {END: (right / unpruned, error), DURING: (float(curve) / unpruned, error)}


_MEASURES: dict[str, Callable[[Any], dict[str, tuple[float, float]]]] = {
    "coherence": _of_coherence,
    "fidelity": _of_fidelity,
    "landscape": _of_landscape,
    "retention": _of_retention,
}

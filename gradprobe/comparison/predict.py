"""Measures of the start beside what is retained at the end, an operator under a seed a unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradprobe.operators.temperature import family
from gradprobe.plotting.colours import throttle_of
from gradprobe.plotting.columns import interval, number
from gradprobe.statistics.association import Association, Units, difference
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.retained import Graded, retention, standard_error

END, DURING = "retention", "during"
COHERENCE, ROUGHNESS = "coherence C", "roughness"
NAMED = ("fidelity, scorer, σ = 1", "descent, step 0.01")  # the two to be confirmed elsewhere; the rest explores
HALF = 3.92  # standard errors in a 95 % interval


def units_of(results: Sequence[Any], of: str = END) -> Units:
    """Operators under the seeds they were trained with: each one's measures at the start and what it retained.

    Operators are matched without their tau: measured at the temperature at which training begins, trained with one that
    falls. A measure is that of the same seed or, where the start was asked with other seeds, its mean over them.
    Cosines are the ungated ones (`statistics.agreement.ungated`), so that no operator drops out for being noisy. A
    training whose retention is undefined, because the unpruned model is never right, is no unit.

    Args:
        results: of the coherence, fidelity, landscape and retention probes, any seeds.
        of: ``retention`` at the end, or ``during``: its mean over the training curve.
    """
    measures: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for result in results:
        values = measures.setdefault(family(result.question["op"]), {})
        for name, pair in _MEASURES[result.probe](result).items():
            values.setdefault(name, {})[result.question["seed"]] = pair
    rows = [(op, seed) for op, each in measures.items() for seed, (x, _) in each.get(of, {}).items() if np.isfinite(x)]
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


def told(association: Association) -> str:
    """Return a correlation as a line: rho with its interval, tau and p; a dash where nothing varies."""
    p = "p < 0.001" if association.p < 0.001 else f"p {number(association.p, 3)}"
    return f"{_rho(association.rho)}, τ {number(association.tau)}, {p}"


def _rho(rho: Estimate) -> str:
    if np.isnan(rho.value):
        return "ρ undefined"
    return f"ρ = {interval(rho.value, rho.low, rho.high)}"


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
    if len(result.kind):
        return _of_kinds(result)
    unpruned = float(result.unpruned.mean()) or np.nan  # a model that is never right retains nothing that can be told
    right = float(result.correct.mean())
    curve = result.curve[1:].mean() if len(result.curve) > 1 else right
    error = float(np.sqrt(right * (1 - right) / len(result.correct))) / unpruned
    return {END: (right / unpruned, error), DURING: (float(curve) / unpruned, error)}


def _of_kinds(result: Any) -> dict[str, tuple[float, float]]:
    """Return the two where there are kinds of questions: means of the kinds' ratios, as in the probe's own rows."""
    images = Graded(result.correct, result.unpruned, result.kind)
    known = len(result.curve[0]) if len(result.curve) else 0
    looks = [Graded(look, result.unpruned[:known], result.kind[:known]) for look in result.curve[1:]] or [images]
    error = standard_error(images)
    return {
        END: (retention(images).value, error),
        DURING: (float(np.mean([retention(look).value for look in looks])), error),
    }


_MEASURES: dict[str, Callable[[Any], dict[str, tuple[float, float]]]] = {
    "coherence": _of_coherence,
    "fidelity": _of_fidelity,
    "landscape": _of_landscape,
    "retention": _of_retention,
}

"""A test of predictions that a preset fixes before its questions are asked, in its table ``[confirm]``."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from gradprobe.comparison.experiments import Answer, Experiment, panels
from gradprobe.comparison.predict import told, units_of
from gradprobe.plotting.columns import interval, number
from gradprobe.statistics.association import Association, Units, associations, difference
from gradprobe.statistics.estimates import Estimate

Verdict = Literal["yes", "no", "open"]
WITHOUT = ("hard", "random")  # relaxations without a gradient


@dataclass(frozen=True)
class Trial:
    """Associations of one model's measures with its outcome.

    Attributes:
        model: Panel of the preset.
        units: Operators under seeds that have been trained.
        associations: Association of each measure.
        differences: Correlation of each named measure less that of the measure to be beaten, on the same units.
        undefined: Number of fidelities that a gate for noise would have dropped.
    """

    model: str
    units: Units
    associations: Mapping[str, Association]
    differences: Mapping[str, Estimate]
    undefined: int


def pairs(relaxations: Sequence[str], throttles: Sequence[str], taken: Collection[str], number: int, seed: int) -> list:
    """Draw pairs ``relaxation+throttle`` at random from all whose relaxation has a gradient and that are not taken.

    Args:
        relaxations: Names.
        throttles: Names.
        taken: Pairs that took part in choosing what is tested.
        number: Pairs to draw.
        seed: Seed of the draw.

    Example:
        >>> pairs(["hard", "lapsum", "probit"], ["gather", "scale"], {"lapsum+scale"}, 2, seed=0)
        ['probit+gather', 'probit+scale']
    """
    every = (f"{relaxation}+{throttle}" for relaxation in relaxations for throttle in throttles)
    pool = sorted(pair for pair in every if pair.partition("+")[0] not in WITHOUT and pair not in taken)
    return sorted(random.Random(seed).sample(pool, number))


def trials(experiment: Experiment, answers: Sequence[Answer]) -> list[Trial]:
    """Return the trial of each model of which an operator was trained.

    Args:
        experiment: Preset with a table ``[confirm]``.
        answers: Its answers.
    """
    done = []
    for model, results in panels(answers):
        units = units_of(results)
        if not len(units.outcome):
            continue
        against, named = experiment.confirm["against"], experiment.confirm["named"]
        measured = {name for name, values in units.measures.items() if len(units.known(name))}
        done.append(
            Trial(
                model=model,
                units=units,
                associations=associations(units),
                differences={n: difference(units, n, against) for n in named if {n, against} <= measured},
                undefined=sum(r.row()["sigmas"][0]["theta"] is None for r in results if r.probe == "fidelity"),
            )
        )
    return done


def predicts(association: Association, p: float, useful: float) -> Verdict:
    """Tell whether a measure predicts the outcome on one model.

    Args:
        association: Association of the measure.
        p: Largest p-value of a prediction.
        useful: Correlation that a prediction must not exclude.

    Returns:
        ``yes`` if the interval lies above 0 and the permutation's p is smaller; ``no`` if the interval lies below the
        useful correlation, or the correlation is not above 0; else ``open``.
    """
    rho = association.rho
    if rho.low > 0 and association.p < p:
        return "yes"
    return "no" if rho.high < useful or rho.value <= 0 else "open"


def better(gap: Estimate) -> Verdict:
    """Tell whether one measure predicts better than another on one model, from the difference of their correlations."""
    return "yes" if gap.low > 0 else "no" if gap.value <= 0 else "open"


def conclusion(verdicts: Sequence[Verdict], models: int, any_refutes: bool) -> str:
    """Return ``confirmed``, ``refuted`` or ``open`` from the verdicts on all models.

    Args:
        verdicts: One a model that was measured.
        models: Number of models that the preset names; with fewer nothing is confirmed.
        any_refutes: Whether a ``no`` on one model refutes, or only one on each.

    Example:
        >>> conclusion(["yes", "yes"], 2, True), conclusion(["yes"], 2, True), conclusion(["yes", "no"], 2, False)
        ('confirmed', 'open', 'open')
    """
    refusals = verdicts.count("no")
    if refusals and (any_refutes or refusals == models):
        return "refuted"
    return "confirmed" if list(verdicts) == ["yes"] * models else "open"


def conclusions(experiment: Experiment, done: Sequence[Trial]) -> dict[str, dict[str, str]]:
    """Return the conclusion on each named measure: that it ``predicts``, and ``better`` than the one to be beaten."""
    rules, models = experiment.confirm, len({run.panel for run in experiment.runs})
    outcome = {}
    for name in rules["named"]:
        known = [predicts(t.associations[name], rules["p"], rules["useful"]) for t in done if name in t.associations]
        gaps = [better(t.differences[name]) for t in done if name in t.differences]
        outcome[name] = {"predicts": conclusion(known, models, True), "better": conclusion(gaps, models, False)}
    return outcome


def lines(experiment: Experiment, done: Sequence[Trial]) -> list[str]:
    """Return the outcome as lines: each measure on each model, each difference, and what is confirmed or refuted."""
    rules = experiment.confirm
    shown = [*rules["named"], rules["against"], *rules["explored"]]
    text = []
    for trial in done:
        asked = {(r.question["op"], r.question["seed"]) for r in _of(experiment, trial.model, "retention")}
        trained = len(trial.units.outcome)
        operators, throttles = len(set(trial.units.operator)), len(set(trial.units.throttle))
        text.append(
            f"{trial.model}: {trained} of {len(asked)} trainings, {operators} operators, {throttles} throttles; "
            f"fidelities that a gate would have dropped: {trial.undefined}"
        )
        for name in shown:
            if (each := trial.associations.get(name)) is None:
                continue
            least = min((rho for rho in each.without.values() if isfinite(rho)), default=float("nan"))
            verdict = predicts(each, rules["p"], rules["useful"]) if name in rules["named"] else "explored"
            text.append(f"  {name}: {told(each)}; a throttle left out: ρ >= {number(least)}; predicts: {verdict}")
        for name, gap in trial.differences.items():
            told_gap = interval(gap.value, gap.low, gap.high)
            text.append(f"  {name} less {rules['against']}: {told_gap}; better: {better(gap)}")
    for name, words in conclusions(experiment, done).items():
        above = f"better than {rules['against']}: {words['better']}"
        text.append(f"{name} predicts retention: {words['predicts']}; {above}")
    return text


def _of(experiment: Experiment, model: str, probe: str) -> list[Any]:
    return [run for run in experiment.runs if (run.panel, run.question["probe"]) == (model, probe)]

"""The test of predictions: what is drawn, what counts as confirmed, and that the shipped one is what its file says."""

import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_predict import ended, started

from gradprobe.advice import measures
from gradprobe.comparison.confirm import better, conclusion, conclusions, lines, pairs, predicts, trials
from gradprobe.comparison.confirm_figure import confirm_figure
from gradprobe.comparison.experiments import Answer, Experiment, Run, load_experiment, run_experiment
from gradprobe.comparison.predict import COHERENCE, NAMED
from gradprobe.operators import registry
from gradprobe.operators.temperature import at_tau, family
from gradprobe.plotting.colours import throttle_of
from gradprobe.plotting.style import save_figure
from gradprobe.statistics.association import Association
from gradprobe.statistics.estimates import Estimate
from gradprobe.store.results import Store

PRESETS = Path(__file__).parents[2] / "experiments"
PRESET = PRESETS / "predict_confirm.toml"
RULES = {"named": list(NAMED), "against": COHERENCE, "explored": ["centred C"], "p": 0.025, "useful": 0.5}
THROTTLES = ["gather", "zero", "scale", "vpnoise", "mean", "attention", "dynamicvit", "scale-vpnoise"]


def association(value, low, high, p):
    return Association(Estimate(value, low, high), tau=value, p=p, without={"zero": value}, units=60, operators=20)


@pytest.mark.parametrize(
    ("rho", "verdict"),
    [
        (association(0.8, 0.4, 0.95, 0.001), "yes"),
        (association(0.8, 0.4, 0.95, 0.2), "open"),
        (association(0.8, -0.1, 0.95, 0.001), "open"),
        (association(0.2, -0.2, 0.45, 0.3), "no"),
        (association(-0.1, -0.8, 0.9, 0.6), "no"),
        (association(0.3, np.nan, np.nan, 0.3), "open"),
    ],
)
def test_a_prediction_needs_its_interval_and_its_permutations(rho, verdict):
    assert predicts(rho, p=0.025, useful=0.5) == verdict


def test_better_needs_an_interval_and_worse_a_value():
    gaps = [Estimate(0.5, 0.1, 0.9), Estimate(0.5, -0.1, 0.9), Estimate(-0.1, -0.6, 0.4), Estimate(0, np.nan, np.nan)]
    assert [better(gap) for gap in gaps] == ["yes", "open", "no", "no"]


@pytest.mark.parametrize(
    ("verdicts", "any_refutes", "word"),
    [
        (["yes", "yes"], True, "confirmed"), (["yes"], True, "open"), (["yes", "open"], True, "open"),
        (["yes", "no"], True, "refuted"), (["yes", "no"], False, "open"), (["no", "no"], False, "refuted"),
        ([], True, "open"),
    ],
)  # fmt: skip
def test_one_model_confirms_nothing(verdicts, any_refutes, word):
    assert conclusion(verdicts, 2, any_refutes) == word


def test_pairs_are_drawn_from_what_has_a_gradient_and_took_no_part():
    names = (["hard", "random", "a", "b"], THROTTLES)
    drawn = pairs(*names, {"a+zero"}, 15, seed=1)
    assert len(set(drawn)) == 15  # all there are
    assert not any(each.startswith(("hard", "random")) or each == "a+zero" for each in drawn)
    assert pairs(*names, set(), 5, seed=1) == pairs(*names, set(), 5, seed=1) != pairs(*names, set(), 5, seed=2)


# --- the shipped test ---


def test_its_operators_are_those_that_its_seed_draws():
    preset = tomllib.loads(PRESET.read_text(encoding="utf-8"))
    taken = {"lapsum+scale", "lapsum+attention", "lapsum+gather", "gumbel-ste+zero"} | set(registry.registered())
    chosen = load_experiment(PRESETS / "predict_retention.toml")
    taken |= {registry.label(at_default(run.question["op"])) for run in chosen.runs}
    rules = preset["confirm"]
    names = [registry.names("relaxation"), registry.names("throttle")]
    drawn = pairs(*names, taken, rules["number"], rules["draw_seed"])
    for run in preset["run"]:
        if run["probe"] == "retention":
            assert run["op"] == drawn
        else:  # as training begins
            assert run["op"] == [registry.label(at_tau(registry.build(op), 2.0)) for op in drawn]


def at_default(op):
    """The pair without fields."""
    return registry.build("+".join(part.partition(":")[0] for part in op.split("+")))


def test_its_seeds_and_operators_took_no_part_in_choosing():
    chosen, tested = load_experiment(PRESETS / "predict_retention.toml"), load_experiment(PRESET)
    assert not {r.question["seed"] for r in chosen.runs} & {r.question["seed"] for r in tested.runs}
    assert not {family(r.question["op"]) for r in chosen.runs} & {family(r.question["op"]) for r in tested.runs}
    assert tested.confirm["named"] == list(NAMED)
    assert tested.confirm["against"] == COHERENCE


# --- planted answers ---


def experiment(models):
    runs = tuple(Run(model, {"probe": "retention", "op": "a+zero", "seed": 1}, {}) for model in models)
    return Experiment("planted", "Planted", "confirm", "", "a+zero", (), runs, RULES)


def planted(model, measure, noise):
    """Answers of 24 operators whose retention is the measure; coherence is that of others."""
    rng, answers = np.random.default_rng(0), []
    for i, throttle in enumerate(THROTTLES):
        for j, relaxation in enumerate("abc"):
            for seed in (1, 2):
                share = measure(i, j)
                cosine = share + noise * rng.normal()
                each = [ended(f"{relaxation}+{throttle}", seed, share)]
                coherence, fidelity = started(f"{relaxation}:tau=2+{throttle}", seed, rng.normal(), cosine)
                row = fidelity.row()
                row["sigmas"][0]["theta"] = None
                row["ladder"][0]["rate"] = cosine
                fidelity.row = lambda row=row: row
                answers += [*each, coherence, fidelity]
    return [Answer(Run(model, dict(a.question) | {"probe": a.probe}, {}), a, Path("x"), False) for a in answers]


def test_a_planted_prediction_is_confirmed_and_a_planted_nothing_is_not(tmp_path):
    models = ["one", "two"]

    def share(i, j):
        return 0.2 + 0.08 * i + 0.01 * j

    answers = [a for model in models for a in planted(model, share, noise=0.01)]
    done = trials(experiment(models), answers)
    told = conclusions(experiment(models), done)
    assert {each["predicts"] for each in told.values()} == {"confirmed"}
    assert {each["better"] for each in told.values()} == {"confirmed"}
    alone = conclusions(experiment(models), done[:1])
    assert {each["predicts"] for each in alone.values()} == {"open"}  # the second model is missing
    text = "\n".join(lines(experiment(models), done))
    assert "better: yes" in text
    assert "dropped: 48" in text
    assert save_figure(confirm_figure(experiment(models), answers), tmp_path / "c.png").stat().st_size > 10_000

    flipped = [a for model in models[:1] for a in planted(model, lambda i, j: 0.9 - share(i, j), noise=0.01)]
    for answer in flipped:
        if answer.result.probe == "fidelity":
            row = answer.result.row()
            row["sigmas"][0]["theta_ungated"] *= -1
    told = conclusions(experiment(models), trials(experiment(models), flipped))
    assert told[NAMED[0]]["predicts"] == "refuted"


@pytest.mark.parametrize("without", [{"zero": np.nan, "gate": 0.3}, {"gate": 0.3, "zero": np.nan}])
def test_the_least_correlation_without_a_throttle_is_of_those_that_have_one(without):
    answers = planted("one", lambda i, j: 0.5 + 0.01 * i, 0.0)
    (trial,) = trials(experiment(["one"]), answers)
    known = {name: replace(each, without=without) for name, each in trial.associations.items()}
    told = lines(experiment(["one"]), [replace(trial, associations=known)])
    assert [line for line in told if "left out" in line and "ρ >= 0.30" not in line] == []


def test_units_without_a_measure_leave_it_out():
    answers = [a for a in planted("one", lambda i, j: 0.5 + 0.01 * i, 0.0) if a.result.probe != "coherence"]
    (trial,) = trials(experiment(["one"]), answers)
    assert trial.differences == {}
    assert COHERENCE not in trial.associations
    assert {throttle_of(op) for op in trial.units.operator} == set(THROTTLES)
    assert isinstance(answers[0].result, SimpleNamespace)


def test_advice_goes_by_what_the_stored_answers_confirm():
    preset = load_experiment(PRESET)
    answers, _ = run_experiment(preset, [Store(PRESETS.parent / "results")], draw_only=True)
    told = conclusions(preset, trials(preset, answers))
    names = dict(zip(("fidelity", "descent"), preset.confirm["named"], strict=True))
    confirmed = [short for short, name in names.items() if told[name]["predicts"] == "confirmed"]
    assert next(iter(confirmed), None) == measures.CONFIRMED

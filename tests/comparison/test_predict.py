"""Measures of the start beside the outcome: operators and seeds are matched, and none is left out for its noise."""

from types import SimpleNamespace

import numpy as np
import pytest

from gradprobe.comparison.predict import COHERENCE, NAMED, differences, predict, throttle_of, units_of, without
from gradprobe.operators.temperature import family
from gradprobe.plotting.style import save_figure
from gradprobe.statistics.association import associations

OPERATORS = ["a+gather", "b+gather", "a+zero", "b+scale", "c+vpnoise", "c+mean"]


def started(op, seed, c, cosine):
    names = ("cosine_ungated", "theta_ungated")
    at = (
        {"sigma": 1.0} | dict.fromkeys(names, cosine) | {f"{n}_{end}": cosine for n in names for end in ("low", "high")}
    )
    coherence = SimpleNamespace(
        probe="coherence", question={"op": op, "seed": seed},
        row=lambda: {"coherence": c, "low": c - 0.0196, "high": c + 0.0196, "centred": c},
    )  # fmt: skip
    fidelity = SimpleNamespace(
        probe="fidelity", question={"op": op, "seed": seed},
        row=lambda: {"sigmas": [at], "ladder": [{"step": 0.01, "rate": c}]},
    )  # fmt: skip
    return [coherence, fidelity]


def ended(op, seed, share):
    correct = np.arange(100) < 100 * share
    return SimpleNamespace(
        probe="retention", question={"op": op, "seed": seed}, unpruned=np.ones(100), correct=correct,
        curve=np.stack([np.zeros(100), correct]),
    )  # fmt: skip


def results(shares, cs, cosines, seeds=(1, 2)):
    found = []
    for op, share, c, cosine in zip(OPERATORS, shares, cs, cosines, strict=False):
        relaxation, _, throttle = op.partition("+")
        for seed in seeds:
            found += started(f"{relaxation}:tau=2+{throttle}", seed, c + 0.01 * seed, cosine)
            found.append(ended(op, seed, share))
    return found


def test_a_unit_is_an_operator_under_a_seed_matched_without_its_tau():
    units = units_of(results([0.5, 0.6], [0.1, 0.2], [0.3, 0.4]))
    assert list(zip(units.operator, units.throttle, units.seed, strict=True)) == [
        ("a+gather", "gather", 1), ("a+gather", "gather", 2), ("b+gather", "gather", 1), ("b+gather", "gather", 2)
    ]  # fmt: skip
    assert units.outcome == pytest.approx([0.5, 0.5, 0.6, 0.6])
    assert units.outcome_error == pytest.approx(np.sqrt([0.0025, 0.0025, 0.0024, 0.0024]))
    assert units.measures[COHERENCE] == pytest.approx([0.11, 0.12, 0.21, 0.22])
    assert units.errors[COHERENCE] == pytest.approx(np.full(4, 0.01))
    assert units.measures["fidelity, scorer, σ = 1"] == pytest.approx([0.3, 0.3, 0.4, 0.4])
    assert units_of(results([0.5, 0.6], [0.1, 0.2], [0.3, 0.4]), "during").outcome == pytest.approx(units.outcome)


def test_a_start_of_other_seeds_stands_for_the_operator():
    found = [*started("a+gather", 0, 0.1, 0.2), *started("a+gather", 7, 0.3, 0.2), ended("a+gather", 1, 0.5)]
    units = units_of(found)
    assert units.measures[COHERENCE] == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("op", "bare"),
    [
        ("lapsum:tau=2+vpnoise", "lapsum+vpnoise"),
        ("gumbel-ste:backward=soft,tau=2+zero", "gumbel-ste:backward=soft+zero"),
        ("x:tau=2,width=3+gather", "x:width=3+gather"),
        ("a:b=1,tau=2,c=3+d:sigma=unit", "a:b=1,c=3+d:sigma=unit"),
        ("hard+gather", "hard+gather"),
    ],
)
def test_only_the_temperature_leaves_a_name(op, bare):
    assert family(op) == bare


def test_a_measure_that_an_operator_does_not_have_is_left_out_and_counted():
    shares, cs = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6]
    found = associations(units_of(results(shares, cs, [0.1, None, 0.3, 0.4, 0.5, 0.6])), replicates=50)
    assert (found["fidelity, scores, σ = 1"].operators, found["fidelity, scores, σ = 1"].units) == (5, 10)
    assert found["fidelity, scores, σ = 1"].rho.value == pytest.approx(1)
    assert found[COHERENCE].operators == 6


def test_an_operator_that_was_not_trained_is_no_unit():
    assert units_of(started("a+gather", 1, 0.1, 0.2)).operator == ()


def test_differences_to_coherence_are_of_the_two_named_measures():
    units = units_of(results([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]))
    found = differences(units)
    assert tuple(found) == NAMED
    coherence = associations(units, replicates=9)[COHERENCE].rho.value
    assert found["fidelity, scorer, σ = 1"].value == pytest.approx(1 - coherence)
    fewer = without(units, "zero")
    assert "a+zero" not in fewer.operator and len(fewer.outcome) == len(units.outcome) - 2
    assert throttle_of("lapsum+vpnoise:sigma=unit") == "vpnoise"


def test_the_figure_shows_every_measure_and_names_every_operator(tmp_path):
    drawn = results([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6], [0.1, None, 0.3, 0.4, 0.5, 0.6])
    figure = predict(drawn)
    names = list(units_of(drawn).measures)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel().partition(" (")[0] for axes in shown[: len(names)]] == names
    written = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert all(op in written for op in OPERATORS)
    assert "n = 5" in shown[2].get_xlabel()
    heat = shown[len(names)]
    assert [label.get_text() for label in heat.get_yticklabels()] == names
    assert [label.get_text() for label in heat.get_xticklabels()][:3] == ["all", "no gather", "no zero"]
    one, two = (save_figure(predict(drawn), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == two

"""Measures of the start beside the outcome: operators and seeds are matched, and none is left out for its noise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from retentions import retained

from gradprobe.comparison.measure_panels import by_throttle, styles_of
from gradprobe.comparison.predict import COHERENCE, NAMED, differences, units_of, without
from gradprobe.comparison.predict_figure import SHOWN, predict
from gradprobe.operators.temperature import family
from gradprobe.plotting.colours import THROTTLES, throttle_of
from gradprobe.plotting.style import BLACK, save_figure
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
        curve=np.stack([np.zeros(100), correct]), kind=np.zeros(0),
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


@pytest.mark.parametrize("kinds", [0, 2])
def test_what_is_predicted_is_the_retention_of_the_probes_own_rows(kinds):
    """Two kinds of questions, of which the unpruned model knows one better than the other."""
    kind = np.arange(40) % kinds if kinds else np.zeros(0)
    unpruned = (np.arange(40) % 4 > 0).astype(np.uint8)
    whole = replace(retained(23), unpruned=unpruned, kind=kind)
    for of in ("retention", "during"):
        last = whole if of == "retention" else replace(whole, curve=np.stack([whole.correct] * 3))
        assert units_of([last], of).outcome == pytest.approx([whole.row()["retention"]])


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


def test_a_training_of_a_model_that_is_never_right_is_no_unit():
    found = results([0.5, 0.6], [0.1, 0.2], [0.3, 0.4])
    next(each for each in found if each.probe == "retention").unpruned = np.zeros(100)
    for of in ("retention", "during"):
        assert units_of(found, of).seed == (2, 1, 2)


def test_differences_to_coherence_are_of_the_two_named_measures():
    units = units_of(results([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]))
    found = differences(units)
    assert tuple(found) == NAMED
    coherence = associations(units, replicates=9)[COHERENCE].rho.value
    assert found["fidelity, scorer, σ = 1"].value == pytest.approx(1 - coherence)
    fewer = without(units, "zero")
    assert "a+zero" not in fewer.operator and len(fewer.outcome) == len(units.outcome) - 2
    assert throttle_of("lapsum+vpnoise:sigma=unit") == "vpnoise"


def test_the_figure_tells_every_measure_and_names_every_operator(tmp_path):
    drawn = results([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6], [0.1, None, 0.3, 0.4, 0.5, 0.6])
    figure, units = predict(drawn), units_of(drawn)
    names = list(units.measures)
    panels = {axes.get_xlabel().partition(" (")[0]: axes for axes in figure.axes if "(n =" in axes.get_xlabel()}
    assert list(panels) == [name for name in SHOWN if name in names]
    assert "n = 5" in panels[NAMED[0]].get_xlabel()
    (table,) = [axes for axes in figure.axes if axes.get_xlabel().startswith("ρ with")]
    assert [label.get_text().removeprefix("* ") for label in table.get_yticklabels()] == names
    found = associations(units)
    marks = [line for line in table.lines if len(line.get_xdata()) == 1]
    filled = [line.get_xdata()[0] for line in marks if line.get_markerfacecolor() == BLACK]
    assert filled == pytest.approx([each.rho.value for each in found.values()])
    written = " ".join(text.get_text() for text in figure.texts)
    assert all(op in written for op in OPERATORS)
    heat = figure.axes[-1]
    assert [label.get_text() for label in heat.get_xticklabels()] == ["gather", "zero", "scale", "vpnoise", "mean"]
    one, two = (save_figure(predict(drawn), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == two


def test_a_mark_is_the_mean_over_seeds_and_its_lines_their_range():
    drawn = results([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    drawn[2] = ended("a+gather", 1, 0.9)
    axes = predict(drawn).axes[0]
    assert axes.get_xlabel().startswith(COHERENCE)
    units = units_of(drawn)
    own = np.array(units.operator) == "a+gather"
    x, y = units.measures[COHERENCE][own], units.outcome[own]
    lying, standing, mark = axes.lines[:3]
    assert list(lying.get_xdata()) == [x.min(), x.max()] and list(standing.get_ydata()) == [y.min(), y.max()]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx((x.mean(), y.mean()))
    assert to_hex(mark.get_color()).upper() == THROTTLES["gather"]


def test_a_throttle_has_the_same_colour_and_marker_in_every_figure():
    one, other = styles_of(["a+gather", "b+scale", "my.py:Op"]), styles_of(["x.py:Op", "b+scale", "c+mean"])
    assert one["scale"] == other["scale"]
    assert len(set(one.values())) == 3
    assert by_throttle(["b+scale", "a+gather", "c+scale"]) == ["b+scale", "c+scale", "a+gather"]

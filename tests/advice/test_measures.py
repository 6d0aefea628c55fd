"""The measure before any training: the order of candidates, and which of them are told apart from the first."""

import numpy as np
import pytest
from test_plotting_fidelity import result

from gradprobe.advice import measures
from gradprobe.advice.measures import SIZES, Measured, ranked, settings_for, size_for
from gradprobe.statistics.estimates import Estimate

NAMES = ("first", "near", "far")


def results(measure):
    near, far = (0.85, 0.1) if measure == "fidelity" else (0.048, 0.0)
    first = 0.9 if measure == "fidelity" else 0.05
    make = {"fidelity": lambda x, i: result("op", cos=x, seed=i), "descent": lambda x, i: result("op", seed=3, fall=x)}
    return {name: make[measure](x, i) for i, (name, x) in enumerate(zip(NAMES, (first, near, far), strict=True))}


@pytest.mark.parametrize("measure", ["fidelity", "descent"])
def test_candidates_stand_by_their_measure_and_the_far_one_is_told_apart(measure):
    every = results(measure)
    shuffled = {name: every[name] for name in ("far", "first", "near")}
    placed = ranked(measure, shuffled)
    values = [each.value.value for each in placed]
    assert values == sorted(values, reverse=True)
    assert placed[0].behind is None and placed[0].apart is None
    far = next(each for each in placed if each.label == "far")
    assert far.label == placed[-1].label and far.apart
    for each in placed[1:]:
        assert each.behind.low <= each.behind.value <= each.behind.high
        assert each.behind.value == pytest.approx(values[0] - each.value.value, abs=1e-9)


@pytest.mark.parametrize("measure", ["fidelity", "descent"])
def test_the_values_are_those_of_the_row(measure):
    for name, each in results(measure).items():
        at = each.row()["sigmas"][0]["theta_ungated"] if measure == "fidelity" else each.row()["ladder"][0]["rate"]
        (own,) = ranked(measure, {name: each})
        assert own.value.value == pytest.approx(at)


def test_a_candidate_is_not_told_apart_from_its_twin():
    twin = result("op", cos=0.5, seed=1)
    placed = ranked("fidelity", {"one": twin, "other": twin})
    assert [each.apart for each in placed] == [None, False]


def test_an_unknown_difference_tells_nothing_apart():
    nan = float("nan")
    assert Measured("other", Estimate(0.1, nan, nan), Estimate(0.5, nan, nan)).apart is False


def test_without_a_gradient_there_is_no_place():
    none = result("op", gradient=False)
    assert [each.label for each in ranked("descent", {"none": none, "some": result("op", cos=0.5)})] == ["some"]


def test_more_time_buys_a_larger_measure_and_there_is_always_one():
    sizes = [size_for([0.01] * 30, 0.001, budget)[0] for budget in np.geomspace(1e-3, 1e5, 40)]
    assert [SIZES.index(size) for size in sizes] == sorted(SIZES.index(size) for size in sizes)
    assert {sizes[0], sizes[-1]} == {SIZES[0], SIZES[-1]}
    for budget in (10, 50, 500):
        size, spent = size_for([0.01] * 30, 0.001, budget)
        assert size == SIZES[0] or spent <= budget


def test_a_small_folder_is_asked_for_no_more_than_it_has():
    for there in (6, 20, 63):
        settings = settings_for(SIZES[1], there, 1)
        assert settings.images + settings.held_out == there
    whole = settings_for(SIZES[1], 96, 1)
    assert (whole.images, whole.held_out, tuple(whole.sigmas), tuple(whole.ladder)) == (32, 64, (1.0,), (0.01,))


def test_what_is_confirmed_is_a_measure_that_there_is():
    assert measures.CONFIRMED is None or measures.CONFIRMED in measures.WORDS

"""The schedule of successive halving: it fits its budget, ends with a winner, and more time is never spent on less."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.advice.schedule import (
    FINALISTS,
    LEAST_IMAGES,
    LEAST_STEPS,
    Full,
    Pace,
    Rung,
    least,
    schedule,
    seconds,
)
from gradprobe.errors import UsageError
from gradprobe.probes.retention.training_run import LOOK_IMAGES, LOOKS

STEPS = st.lists(st.floats(1e-4, 5), min_size=1, max_size=60)
PACES = st.builds(Pace, STEPS.map(tuple), st.floats(1e-5, 0.1), st.floats(1e-5, 0.1), st.integers(0, 4))
FULLS = st.builds(Full, st.integers(1, 300), st.integers(1, 5), st.integers(8, 2000))
SPARE = st.floats(1, 1000)


def cost(rungs, pace):
    return sum(seconds(rung, pace, last=rung is rungs[-1]) for rung in rungs)


def test_a_training_is_looked_at_as_often_as_the_probe_does():
    from gradprobe.advice import schedule as own

    assert (own.LOOKS, own.LOOK_IMAGES) == (LOOKS, LOOK_IMAGES)


@given(PACES, FULLS, SPARE)
def test_it_fits_the_budget_and_ends_with_few(pace, full, spare):
    budget = spare * least(pace, full)
    rungs = schedule(pace, budget, full)
    assert cost(rungs, pace) <= budget * (1 + 1e-9)
    assert rungs[0].operators == len(pace.steps)
    assert 1 <= rungs[-1].operators <= FINALISTS
    assert all(a.operators > b.operators for a, b in pairwise(rungs))
    assert all(a.steps <= b.steps and a.images <= b.images for a, b in pairwise(rungs))
    assert all(rung.seeds == 1 for rung in rungs[:-1])
    for rung in rungs:
        assert min(LEAST_STEPS, full.steps) <= rung.steps <= full.steps
        assert min(LEAST_IMAGES, full.images) <= rung.images <= full.images
        assert 1 <= rung.seeds <= full.seeds


@given(PACES, FULLS, SPARE, SPARE)
def test_more_time_never_ends_in_shorter_trainings(pace, full, one, other):
    small, large = (schedule(pace, x * least(pace, full), full) for x in sorted((one, other)))
    assert small[-1].steps <= large[-1].steps
    if small[-1].steps == full.steps:
        assert len(small) <= len(large)
    if [rung.operators for rung in small] == [rung.operators for rung in large]:
        assert all(a.steps <= b.steps and a.seeds <= b.seeds for a, b in zip(small, large, strict=True))


@given(PACES, FULLS)
def test_the_least_is_enough_and_less_is_refused(pace, full):
    shortest = least(pace, full)
    assert schedule(pace, shortest * (1 + 1e-9), full)
    with pytest.raises(UsageError, match="shortest schedule"):
        schedule(pace, shortest * 0.99, full)


@given(PACES, FULLS, SPARE)
def test_seeds_that_were_asked_for_are_all_taken(pace, full, spare):
    every = Full(full.steps, full.seeds, full.images, fewest=full.seeds)
    rungs = schedule(pace, spare * least(pace, every), every)
    assert rungs[-1].seeds == full.seeds
    assert cost(rungs, pace) <= spare * least(pace, every) * (1 + 1e-9)


@given(PACES, FULLS)
def test_with_time_enough_the_last_trainings_are_of_full_length_over_all_seeds(pace, full):
    rungs = schedule(pace, 1e9, full)
    assert (rungs[-1].steps, rungs[-1].seeds, rungs[-1].images) == (full.steps, full.seeds, full.images)
    halves = [-(-a.operators // 2) for a in rungs[:-1]]
    assert [rung.operators for rung in rungs[1:]] == [max(half, 2) for half in halves]


def test_a_rung_is_priced_at_its_dearest_operators():
    pace = Pace((0.1, 2.0, 0.5), 0.0, 0.0)
    rung = Rung(operators=2, steps=10, seeds=1, images=64)
    assert seconds(rung, pace) == pytest.approx(10 * 2.5 + 2 * 0.3)

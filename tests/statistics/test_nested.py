"""Means over seeds: by hand, at the edges, and a quick simulation of coverage (all: `test_coverage_seeds`)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, sem, t
from test_coverage import holds
from test_coverage_seeds import intervals_of_seeds, trainings

from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.nested import nested
from gradprobe.statistics.ratios import mean_of, over_seeds, paired_ratio, relative_variance

SCALES = {"identity": (lambda x: x, lambda z: z), "atanh": (np.arctanh, np.tanh), "log": (np.log, np.exp)}
SPREAD = (0.55, 0.8, 0.6, 0.72, 0.41)


def seeds(values, half=0.001):
    return [Estimate(value, value - half, value + half) for value in values]


@pytest.mark.parametrize("scale", SCALES)
def test_seeds_that_differ_have_students_interval_on_the_scale(scale):
    there, back = SCALES[scale]
    z = there(np.array(SPREAD))
    mean = nested(seeds(SPREAD), scale, shared=False)
    ends = z.mean() + t.ppf([0.025, 0.5, 0.975], 4) * sem(z)
    assert (mean.low, mean.value, mean.high) == pytest.approx(back(ends))


def test_images_that_seeds_share_are_added_with_satterthwaites_freedom():
    half = 0.1
    within, between = (half / norm.ppf(0.975)) ** 2, np.var(SPREAD, ddof=1)
    total = between / 5 + within
    reach = t.ppf(0.975, 4 * (total / (between / 5)) ** 2) * np.sqrt(total)
    mean = nested(seeds(SPREAD, half), "identity", shared=True)
    assert mean.high - mean.value == pytest.approx(reach) == pytest.approx(mean.value - mean.low)


@pytest.mark.parametrize("shared", [False, True])
def test_seeds_that_their_images_explain_have_the_mean_of_their_intervals(shared):
    each = [Estimate(x, x - 0.4, x + 0.6) for x in (0.5, 0.51, 0.49, 0.5, 0.52)]
    mean = nested(each, "identity", shared)
    expected = mean_of(each, shared)
    assert (mean.low, mean.value, mean.high) == pytest.approx((expected.low, expected.value, expected.high))


@pytest.mark.parametrize("scale", SCALES)
def test_fewer_than_five_seeds_have_a_mean_and_no_interval(scale):
    there, back = SCALES[scale]
    mean = nested(seeds(SPREAD[:4]), scale, shared=False)
    assert mean.value == pytest.approx(back(there(np.array(SPREAD[:4])).mean()))
    assert np.isnan([mean.low, mean.high]).all()


def test_one_undefined_seed_makes_the_mean_undefined():
    assert np.isnan(nested([*seeds(SPREAD), Estimate(np.nan, np.nan, np.nan)], "atanh", False).value)
    assert np.isnan(nested(seeds((0.2, 0.3, 0.0, 0.4, 0.5)), "log", False).value)
    nothing = nested(seeds((0.0,) * 5), "log", False)
    assert nothing.value == 0 and np.isnan(nothing.low)


def test_unknown_intervals_within_seeds_matter_only_where_images_are_shared():
    each = [Estimate(x, np.nan, np.nan) for x in SPREAD]
    own = nested(each, "identity", shared=False)
    assert own.high - own.value == pytest.approx(t.ppf(0.975, 4) * sem(SPREAD))
    assert np.isnan(nested(each, "identity", shared=True).low)
    assert np.isnan(nested([Estimate(0.5, np.nan, np.nan)] * 5, "identity", shared=False).low)  # nothing is known


COSINES = st.floats(-1, 1).flatmap(
    lambda c: st.tuples(st.floats(-1, c), st.just(c), st.floats(c, 1)).map(
        lambda ends: Estimate(ends[1], ends[0], ends[2])
    )
)


@given(st.lists(COSINES, min_size=5, max_size=8), st.booleans())
def test_a_mean_cosine_stays_between_the_seeds_and_its_interval_in_the_range(each, shared):
    mean = nested(each, "atanh", shared)
    values = [one.value for one in each]
    assert -1 <= mean.low <= mean.value <= mean.high <= 1
    assert min(values) - 1e-9 <= mean.value <= max(values) + 1e-9
    assert nested(each[::-1], "atanh", shared) == Estimate(*map(pytest.approx, (mean.value, mean.low, mean.high)))


@given(st.lists(st.floats(-2, 2), min_size=5, max_size=8))
def test_a_difference_is_cut_to_what_is_possible(values):
    mean = nested(seeds(values), "identity", False, (-2.0, 2.0))
    assert -2 <= mean.low <= mean.value <= mean.high <= 2


def test_cosines_of_exactly_one_stay_one():
    mean = nested(seeds((1.0,) * 5, half=0.0), "atanh", False)
    assert (mean.value, mean.high) == (1, 1) and mean.low == pytest.approx(1)


# --- coverage, quickly ---


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize(("spread", "shared"), [(0.0, False), (0.2, False), (0.2, True)])
def test_coverage_on_a_scale(count, spread, shared):
    """Errors within a seed of 0.1, known with 15 degrees of freedom, at an atanh C of 2.3: C = 0.98."""
    rng = np.random.default_rng(20)
    hits = [holds(nested(each, "atanh", shared), np.tanh(2.3)) for each in
            intervals_of_seeds(rng, 400, count, 2.3, spread, shared)]  # fmt: skip
    assert 0.915 <= np.mean(hits) <= 0.995  # three standard errors around 0.945 to 0.98


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize(("mean", "spread"), [(0.03, 0.01), (0.6, 0.1), (0.98, 0.01)])
def test_coverage_of_retention(count, mean, spread):
    rng, hits = np.random.default_rng(21), []
    for _ in range(300):
        counts = trainings(rng, count, 1000, 0.97, mean, spread, False)
        each = [paired_ratio(c) for c in counts]
        variances = [e.value**2 * relative_variance(c) for e, c in zip(each, counts, strict=True)]
        hits.append(holds(over_seeds([e.value for e in each], variances, each, False, 1 / 0.97), mean))
    assert 0.9 <= np.mean(hits) <= 0.99

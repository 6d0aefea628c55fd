"""Intervals of retention: against the published formula, at the edges, and with the shares of seeds and images."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from gradprobe.statistics.agreement import cut_estimate
from gradprobe.statistics.estimates import Estimate, Jackknifed, mover, of_cosine, paired_difference
from gradprobe.statistics.proportions import Pairs, tango, wilson
from gradprobe.statistics.ratios import (
    Paired,
    mean_of,
    over_seeds,
    paired_ratio,
    relative_variance,
    retained_difference,
)
from gradprobe.statistics.retained import Graded, difference

COUNTS = st.builds(Paired, st.integers(0, 900), st.integers(0, 60), st.integers(0, 60))


def bonett_price(both, ours, theirs):
    """As in Fagerland, Lydersen and Laake 2014, section 4.4, written out."""
    n, a, b = both + ours + theirs, both + ours, both + theirs
    big_a = sqrt((ours + theirs + 2) / ((a + 1) * (b + 1)))
    big_b, big_c = (sqrt((1 - (x + 1) / (n + 2)) / (x + 1)) for x in (a, b))
    z = big_a / (big_b + big_c) * norm.ppf(0.975)
    ends = [
        [(2 * x + z**2 + side * z * sqrt(z**2 + 4 * x * (1 - x / n))) / (2 * (n + z**2)) for side in (-1, 1)]
        for x in (a, b)
    ]
    return ends[0][0] / ends[1][1], ends[0][1] / ends[1][0]


@given(COUNTS.filter(lambda c: c.both + c.ours and c.both + c.theirs))
def test_the_ratio_is_bonett_and_prices(counts):
    ratio = paired_ratio(counts)
    assert (ratio.low, ratio.high) == pytest.approx(bonett_price(*counts), rel=1e-9)
    assert 0 <= ratio.low < ratio.value < ratio.high


def test_all_alike_has_a_width_and_none_right_is_undefined():
    ratio = paired_ratio(Paired(400, 0, 0))
    assert ratio.value == 1 and ratio.low == pytest.approx(1 / ratio.high) and 0.99 < ratio.low < 0.996
    assert np.isnan(paired_ratio(Paired(0, 5, 0)).value)
    zero = paired_ratio(Paired(0, 0, 300))
    assert (zero.value, zero.low) == (0, 0) and 0 < zero.high < 0.03


@given(COUNTS.filter(lambda c: c.both + c.ours and c.both + c.theirs))
def test_exchanging_the_two_inverts_the_ratio(counts):
    one, other = paired_ratio(counts), paired_ratio(Paired(counts.both, counts.theirs, counts.ours))
    assert (one.low, one.high) == pytest.approx((1 / other.high, 1 / other.low))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(60, 400))
def test_a_difference_is_tangos_over_the_unpruned_accuracy_and_turns_round(gained, lost, n):
    difference, other = (retained_difference(Pairs(*each, n), n - 5) for each in ((gained, lost), (lost, gained)))
    assert (difference.low, difference.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
    assert difference.low < difference.value < difference.high
    gap, unpruned = tango(Pairs(gained, lost, n)), wilson(n - 5, n)
    assert (difference.low > 0) == (gap.low > 0)
    assert min(difference.low, 0) <= min(gap.low, 0) + 1e-9
    assert difference.value == pytest.approx(gap.value / unpruned.value)


def test_four_seeds_have_no_interval_and_five_have_one_in_range():
    tables = [Paired(both, 1, 990 - both) for both in (450, 955, 440, 900, 980)]
    each = [paired_ratio(c) for c in tables]
    spread = [e.value**2 * relative_variance(c) for e, c in zip(each, tables, strict=True)]
    values = [e.value for e in each]
    four = over_seeds(values[:4], spread[:4], each[:4], shared=False, most=1.01)
    assert four.value == pytest.approx(np.mean(values[:4])) and np.isnan(four.low)
    five = over_seeds(values, spread, each, shared=False, most=1.01)
    assert 0 < five.low < 0.5 < five.value < five.high < 1.01


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=5, max_size=9), st.booleans())
def test_a_difference_over_seeds_lies_in_its_interval_also_where_one_of_the_two_keeps_nothing(seeds, shared):
    """Right with K tokens and with all, of 40 images; the other keeps none, or all."""
    images, kind = np.arange(40), np.zeros(0)
    ours = [Graded(images < right, images < unpruned, kind) for right, unpruned in seeds]
    for constant in (0, 40):
        pairs = [(each, Graded(images < constant, each.unpruned, kind)) for each in ours]
        for gap in (difference(pairs, shared), difference([(b, a) for a, b in pairs], shared)):
            assert gap.low <= gap.value <= gap.high and gap.low < gap.high


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=20))
def test_no_interval_of_a_cosine_leaves_its_range(values):
    interval = of_cosine(Jackknifed(float(np.mean(values)), np.array(values)))
    assert -1 <= interval.low <= interval.value <= interval.high <= 1


def test_one_odd_batch_does_not_stretch_the_interval_below_zero():
    interval = of_cosine(Jackknifed(0.86, np.array([0.8555] * 31 + [0.999])))
    assert 0 < interval.low < 0.86 < interval.high < 1


def test_cosines_of_one_exactly_are_one():
    assert of_cosine(Jackknifed(1.0, np.ones(5))) == Estimate(1, 1, 1)
    assert of_cosine(Jackknifed(1 + 1e-15, np.ones(5))) == Estimate(1, 1, 1)
    assert of_cosine(Jackknifed(-1.0, -np.ones(5))) == Estimate(-1, -1, -1)


@given(st.floats(-2, 2), st.floats(0.01, 2))
def test_a_disattenuated_cosine_is_cut_and_keeps_a_width(value, spread):
    interval = cut_estimate(Jackknifed(value, value + spread * np.array([-0.5, 0.1, 0.4, -0.2, 0.2])))
    assert -1 <= interval.low <= interval.value <= interval.high <= 1 and interval.low < interval.high
    assert interval.value == np.clip(value, -1, 1)


def test_a_difference_of_cosines_stays_within_two_and_of_one_with_itself_is_nothing():
    high, low = (Jackknifed(v, v + v / 50 * np.array([-2, 1, 1, 0])) for v in (0.95, -0.95))
    difference = paired_difference(high, low, of_cosine)
    assert -2 <= difference.low < 1.9 < difference.high <= 2
    assert paired_difference(high, high, of_cosine) == Estimate(0, 0, 0)
    assert mover(Estimate(1, 0, 1), Estimate(-1, -1, 0)).high == pytest.approx(2)


def test_a_mean_of_shared_estimates_is_no_narrower_than_one():
    one = Estimate(0.5, 0.3, 0.6)
    assert mean_of([one] * 4, shared=True).low == pytest.approx(0.3)
    assert mean_of([one] * 4).low == pytest.approx(0.4)

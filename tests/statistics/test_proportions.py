"""Every test of paired counts against its brute-force twin: likelihoods, binomial sums, coverage by enumeration."""

from math import comb, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import multinomial, norm

from gradprobe.errors import UsageError
from gradprobe.statistics import proportions as p
from gradprobe.statistics.proportions import Pairs
from gradprobe.statistics.proportions import compare_proportions as compare

Z = norm.ppf(0.975)
CASES = [Pairs(14, 6, 100), Pairs(0, 5, 40), Pairs(5, 0, 40), Pairs(3, 3, 10), Pairs(20, 70, 100), Pairs(90, 120, 804)]


@st.composite
def pairs_of(draw, most=400):
    n = draw(st.integers(1, most))
    gained = draw(st.integers(0, n))
    return Pairs(gained, draw(st.integers(0, n - gained)), n)


# --- one proportion ---


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilsons_ends_are_where_the_score_test_is_just_passed(n, share):
    right = round(share * n)
    interval = p.wilson(right, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    for end in {interval.low, interval.high} - {0.0, 1.0}:
        assert abs(right - n * end) == pytest.approx(Z * sqrt(n * end * (1 - end)), rel=1e-9)
    mirrored = p.wilson(n - right, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-12)


def test_none_right_is_an_interval_too():
    assert p.wilson(0, 20).low == 0
    assert p.wilson(20, 20).high == 1
    assert p.wilson(0, 20).high == pytest.approx(Z**2 / (20 + Z**2))


# --- the paired difference ---


@pytest.mark.parametrize("pairs", CASES)
@pytest.mark.parametrize("difference", [-0.9, -0.3, -0.01, 0.0, 0.01, 0.2, 0.75])
def test_the_constrained_likelihood_is_at_its_largest(pairs, difference):
    gained, lost, n = pairs

    def cost(q):
        chances = (q + difference, q, 1 - 2 * q - difference)
        terms = [c * log(max(x, 1e-300)) for c, x in zip((gained, lost, n - gained - lost), chances, strict=True) if c]
        return -sum(terms)

    ends = max(0, -difference), (1 - difference) / 2
    best = minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-13})
    chance = p.least_lost(pairs, difference)
    assert ends[0] - 1e-12 <= chance <= ends[1] + 1e-12
    assert cost(min(max(chance, ends[0]), ends[1])) <= best.fun + 1e-7
    assert chance == pytest.approx(best.x, abs=1e-5)


@given(pairs_of(), st.sampled_from([0.9, 0.95, 0.99]))
def test_tangos_interval_is_all_differences_that_the_score_does_not_refuse(pairs, level):
    interval, z = p.tango(pairs, level), norm.ppf((1 + level) / 2)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    for d in np.linspace(-1, 1, 81):
        if min(abs(d - interval.low), abs(d - interval.high)) > 1e-9:
            assert (interval.low < d < interval.high) == (abs(p.score(pairs, d)) < z)


def test_no_image_that_differs_is_still_an_interval():
    interval = p.tango(Pairs(0, 0, 100))
    assert (interval.low, interval.high) == pytest.approx((-(Z**2) / (100 + Z**2), Z**2 / (100 + Z**2)))


@given(pairs_of())
def test_swapping_the_two_turns_the_difference_round(pairs):
    gained, lost, n = pairs
    one, other = p.tango(pairs), p.tango(Pairs(lost, gained, n))
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
    assert p.tost(pairs, 0.05) == pytest.approx(p.tost(Pairs(lost, gained, n), 0.05), abs=1e-12)
    assert p.mcnemar(pairs) == p.mcnemar(Pairs(lost, gained, n))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_sum_of_binomial_probabilities(gained, lost):
    n = gained + lost
    chance = [comb(n, i) / 2**n for i in range(n + 1)]
    expected = sum(c for i, c in enumerate(chance) if min(i, n - i) <= min(gained, lost))
    assert p.mcnemar(Pairs(gained, lost, 500)) == pytest.approx(min(1, expected), rel=1e-10)


# --- equivalence ---


@given(pairs_of(), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_two_one_sided_tests_are_the_90_percent_interval_within_the_margin(pairs, margin):
    inside, p_value = p.tango(pairs, 0.9), p.tost(pairs, margin)
    if abs(p_value - 0.05) > 1e-6:
        assert (p_value < 0.05) == (-margin < inside.low and inside.high < margin)


def every_table(n, gained, lost):
    """All outcomes of n images with these chances, and the probability of each."""
    tables = [Pairs(g, c, n) for g in range(n + 1) for c in range(n + 1 - g)]
    rows = [(g, c, n - g - c) for g, c, _ in tables]
    return tables, multinomial.pmf(rows, n, [gained, lost, 1 - gained - lost])


@pytest.mark.parametrize("chances", [(0.05, 0.05), (0.15, 0.05), (0.02, 0.12), (0.3, 0.3)])
def test_the_interval_covers_as_it_says(chances):
    tables, weights = every_table(60, *chances)
    covered = [abs(p.score(t, chances[0] - chances[1])) <= Z for t in tables]
    assert 0.93 < float(weights @ covered) < 0.98


@pytest.mark.parametrize("chances", [(0.15, 0.05), (0.05, 0.15), (0.11, 0.01)])
def test_a_gap_of_the_margin_is_called_equivalent_once_in_twenty(chances):
    tables, weights = every_table(120, *chances)
    likely = weights > 1e-9
    called = [p.tost(t, 0.1) < 0.05 for t, shown in zip(tables, likely, strict=True) if shown]
    assert 0.02 < float(weights[likely] @ called) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("chances", [(0.05, 0.09), (0.02, 0.02), (0.001, 0.004), (0.2, 0.1)])
@pytest.mark.parametrize("n", [100, 804, 2404])
def test_coverage_in_simulation(n, chances):
    rng = np.random.default_rng(0)
    true, hits, draws = chances[0] - chances[1], 0, 4000
    for gained, lost, _ in rng.multinomial(n, [*chances, 1 - sum(chances)], draws):
        interval = p.tango(Pairs(int(gained), int(lost), n))
        hits += interval.low <= true <= interval.high
    assert hits / draws > 0.935
    if n * sum(chances) > 8:  # where hardly an image differs nobody can tell, and the interval is rightly wide
        assert hits / draws < 0.97


# --- how many images ---


@pytest.mark.parametrize(("pairs", "margin"), [(Pairs(40, 44, 800), 0.02), (Pairs(10, 10, 500), 0.03)])
def test_that_many_images_show_equivalence_four_times_in_five(pairs, margin):
    needed = int(p.images_for_equivalence(pairs, margin))
    chances = [pairs.gained / pairs.n, pairs.lost / pairs.n]
    rng = np.random.default_rng(1)
    tables = rng.multinomial(needed, [*chances, 1 - sum(chances)], 2000)
    shown = np.mean([p.tost(Pairs(int(g), int(c), needed), margin) < 0.05 for g, c, _ in tables])
    assert shown == pytest.approx(0.8, abs=0.04)


def test_that_many_images_show_a_difference_four_times_in_five():
    pairs = Pairs(30, 45, 800)
    needed = int(p.images_for_difference(pairs))
    rng = np.random.default_rng(1)
    tables = rng.multinomial(needed, [30 / 800, 45 / 800, 725 / 800], 2000)
    shown = np.mean([abs(p.score(Pairs(int(g), int(c), needed), 0)) > Z for g, c, _ in tables])
    assert shown == pytest.approx(0.8, abs=0.04)


def test_what_no_number_of_images_would_show_needs_infinitely_many():
    assert p.images_for_equivalence(Pairs(30, 10, 1000), 0.02) == inf  # a gap of exactly the margin
    assert p.images_for_difference(Pairs(7, 7, 100)) == inf
    needed = p.images_for_equivalence(Pairs(0, 0, 100), 0.01)  # not one image differs: both tests succeed from here on
    assert p.tost(Pairs(0, 0, int(needed)), 0.01) < 0.05 < p.tost(Pairs(0, 0, int(needed) - 1), 0.01)
    assert needed == np.ceil(ndtri(0.95) ** 2 * 0.99 / 0.01)


# --- the verdict ---


@pytest.mark.parametrize(
    ("pairs", "verdict", "needs"),
    [
        (Pairs(10, 10, 4000), "equivalent", False),
        (Pairs(2, 14, 4000), "small gap", False),
        (Pairs(60, 100, 1000), "different", True),
        (Pairs(20, 26, 500), "undecided", True),
    ],
)
def test_a_verdict_for_each_outcome_of_the_two_tests(pairs, verdict, needs):
    versus = compare(pairs, 0.01)
    assert versus.verdict == verdict
    assert (versus.tost < 0.05) == (verdict in ("equivalent", "small gap"))
    assert (not versus.difference.low <= 0 <= versus.difference.high) == (verdict in ("small gap", "different"))
    assert (versus.needed is not None) == needs


def test_a_gap_above_the_margin_is_never_shown_to_be_below_it():
    assert compare(Pairs(60, 100, 1000), 0.01).needed == inf
    assert compare(Pairs(60, 100, 1000), 0.05).needed < inf


def test_undecided_is_decided_by_whichever_comes_first():
    close, far = Pairs(20, 21, 500), Pairs(20, 32, 500)
    assert compare(close, 0.01).needed == p.images_for_equivalence(close, 0.01) < p.images_for_difference(close)
    assert compare(far, 0.01).needed == p.images_for_difference(far) < p.images_for_equivalence(far, 0.01)


def test_the_verdict_and_the_p_that_is_printed_agree():
    versus = compare(Pairs(40, 60, 1000), 0.01)
    assert versus.difference.high < 0  # by a hair
    assert versus.mcnemar == pytest.approx(0.0569, abs=1e-4) and versus.verdict == "undecided"


@given(pairs_of(), st.sampled_from([0.01, 0.05]))
def test_a_gap_is_seen_where_mcnemars_p_is_below_5_percent_and_the_interval_leaves_0_out_then(pairs, margin):
    versus = compare(pairs, margin)
    assert (versus.verdict in ("different", "small gap")) == (versus.mcnemar < 0.05)
    if versus.mcnemar < 0.05:
        assert not versus.difference.low <= 0 <= versus.difference.high
    assert (versus.verdict in ("equivalent", "small gap")) == (versus.tost < 0.05)


@given(pairs_of())
def test_what_is_needed_is_more_than_there_is_and_not_said_from_next_to_nothing(pairs):
    needed = compare(pairs, 0.05).needed
    if needed is not None and needed < inf:
        assert pairs.n < needed <= 100 * pairs.n and pairs.gained + pairs.lost >= 10


def test_a_table_of_one_image_says_nothing_of_how_many_would_decide():
    assert compare(Pairs(1, 0, 1), 0.01).needed == inf
    assert p.accuracy_row(np.array([True]), np.array([False]), 0.01)["_needed"] is None


@pytest.mark.parametrize("margin", [0, -0.01, 1, float("nan")])
def test_a_margin_that_means_nothing_is_refused(margin):
    with pytest.raises(UsageError, match="--margin"):
        compare(Pairs(1, 1, 10), margin)


def test_a_row_counts_the_images():
    ours, theirs = np.array([1, 1, 0, 0, 1, 1], bool), np.array([1, 0, 1, 0, 0, 1], bool)
    row = p.accuracy_row(ours, theirs, 0.01)
    assert (row[""], row["_gained"], row["_lost"]) == (4 / 6, 2, 1)
    assert row["_difference"] == 1 / 6
    alone = p.accuracy_row(ours, None, 0.01)
    assert alone.keys() == row.keys()
    assert alone[""] == 4 / 6
    assert alone["_verdict"] is alone["_difference"] is None

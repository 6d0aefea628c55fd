"""Correlations over operators against brute-force twins; the bootstrap and the permutations do what they say."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, rankdata, spearmanr

from gradprobe.statistics import association as a

RNG = np.random.default_rng
VALUES = st.lists(st.integers(-3, 3).map(float), min_size=4, max_size=12)


def units(measure, outcome, throttle=None, seeds=1, errors=0.0):
    """One measure of operators, each under some seeds; operators of one throttle follow each other."""
    operators = [
        f"r{i}+{t}" for i, t in enumerate(throttle or "abcdefgh"[: len(outcome) // seeds]) for _ in range(seeds)
    ]
    n = len(outcome)
    return a.Units(
        operator=operators, throttle=[op.partition("+")[2] for op in operators], seed=list(range(seeds)) * (n // seeds),
        outcome=np.array(outcome, float), outcome_error=np.full(n, errors),
        measures={"m": np.array(measure, float)}, errors={"m": np.full(n, errors)},
    )  # fmt: skip


# --- coefficients ---


@given(VALUES)
def test_ranks_are_scipys(values):
    assert a.ranks(values) == pytest.approx(rankdata(values))


@given(VALUES, st.randoms(use_true_random=False))
def test_spearman_and_kendall_are_scipys(values, random):
    other = [random.choice(values) + random.randint(0, 1) for _ in values]
    if np.ptp(values) and np.ptp(other):
        assert a.spearman(values, other) == pytest.approx(spearmanr(values, other).statistic)
        assert a.kendall(values, other) == pytest.approx(kendalltau(values, other).statistic)
    else:
        assert np.isnan(a.spearman(values, other)) and np.isnan(a.kendall(values, other))


@given(VALUES, st.floats(0, 4))
def test_outcomes_within_the_noise_are_ties(values, noise):
    x = np.arange(len(values)) ** 1.5
    pairs = list(combinations(range(len(values)), 2))
    signs = [0 if abs(values[j] - values[i]) <= noise else np.sign(values[j] - values[i]) for i, j in pairs]
    untied = np.count_nonzero(signs)
    tau = a.kendall(x, values, noise)
    assert np.isnan(tau) if not untied else tau == pytest.approx(sum(signs) / np.sqrt(len(pairs) * untied))


# --- resampling ---


def test_a_replicate_keeps_throttles_together_and_seeds_the_same_for_all():
    """A measure that names throttle, operator and seed shows what was drawn."""
    throttle = list("aabbbcdd")
    outcome = np.arange(16.0)
    correlations = a.bootstrap(units(outcome, outcome, throttle, seeds=2), ("m",), replicates=300)["m"]
    assert np.nanmin(correlations) == pytest.approx(1)  # without noise a unit keeps its pair of numbers
    same = a.bootstrap(units(outcome, outcome, throttle, seeds=2), ("m",), replicates=300)["m"]
    assert np.array_equal(correlations, same, equal_nan=True)


def test_the_noise_of_images_widens_an_interval():
    outcome = np.linspace(0, 1, 14)
    throttle = list("aabbccddeeffgg")
    quiet, loud = (
        a.associations(units(outcome, outcome, throttle, errors=e), replicates=300)["m"].rho for e in (0, 0.3)
    )
    assert quiet.low == pytest.approx(1) and loud.low < 0.9


def test_operators_that_share_a_throttle_count_as_little_more_than_one():
    rng = RNG(0)
    effect = rng.normal(size=7)
    alone = units(effect, effect + 0.8 * rng.normal(size=7))
    copies = units(np.repeat(alone.measures["m"], 4), np.repeat(alone.outcome, 4), list(np.repeat(list("abcdefg"), 4)))
    one, four = (a.associations(u, replicates=500)["m"].rho for u in (alone, copies))
    assert four.high - four.low > 0.8 * (one.high - one.low)


def test_the_difference_of_a_measure_with_itself_is_nothing():
    rng = RNG(1)
    u = units(rng.normal(size=16), rng.normal(size=16), list("aabbccdd"), seeds=2)
    u.measures["other"] = u.measures["m"]
    gap = a.difference(u, "m", "other", replicates=100)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_a_difference_is_of_the_units_that_have_both():
    x = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    u = units(x, x)
    u.measures["other"] = np.where(x > 6, np.nan, -x)
    gap = a.difference(u, "m", "other", replicates=50)
    assert gap.value == 2
    assert a.associations(u, replicates=50)["other"].units == 6


def test_permutations_of_whole_throttles_are_all_orders():
    rng = RNG(2)
    throttle = list("aabbbc")
    x, y = rng.normal(size=6), rng.normal(size=6)
    blocks = {t: [i for i, other in enumerate(throttle) if other == t] for t in "abc"}
    every = [a.spearman(x, y[[i for t in order for i in blocks[t]]]) for order in permutations("abc")]
    expected = np.mean([abs(r) >= abs(a.spearman(x, y)) - 1e-9 for r in every])
    assert a.throttle_permutations(x, y, throttle) == pytest.approx(expected)


def test_the_order_of_the_units_does_not_matter_to_the_permutation():
    rng = RNG(3)
    throttle = np.array(list("aabbccdd"))
    x, y, order = rng.normal(size=8), rng.normal(size=8), rng.permutation(8)
    first = list(dict.fromkeys(throttle[order]))
    grouped = np.concatenate([order[throttle[order] == t] for t in first])
    once = a.throttle_permutations(x[grouped], y[grouped], list(throttle[grouped]))
    assert a.throttle_permutations(x[order], y[order], list(throttle[order])) == pytest.approx(once)


@pytest.mark.parametrize("throttles", [4, 9])
def test_the_permutation_test_is_wrong_once_in_twenty_where_throttles_share_an_effect(throttles):
    rng, hits = RNG(4), 0
    names = [str(t) for t in range(throttles) for _ in range(3)]
    trials = 60 if throttles > 7 else 400
    for _ in range(trials):
        x, y = (np.repeat(rng.normal(size=throttles), 3) + 0.3 * rng.normal(size=3 * throttles) for _ in range(2))
        hits += a.throttle_permutations(x, y, names) <= 0.05
    assert hits / trials < 0.12


def test_leaving_a_throttle_out_is_the_correlation_of_the_rest():
    rng = RNG(5)
    x, y, throttle = rng.normal(size=9), rng.normal(size=9), list("aaabbbccc")
    result = a.associations(units(x, y, throttle), replicates=20)["m"]
    for t in "abc":
        rest = [i for i, other in enumerate(throttle) if other != t]
        assert result.without[t] == pytest.approx(spearmanr(x[rest], y[rest]).statistic)


def test_seed_noise_is_that_of_a_difference_of_two_trainings():
    rng = RNG(6)
    outcome = (rng.normal(size=400)[:, None] + 0.2 * rng.normal(size=(400, 3))).ravel()
    many = units(outcome, outcome, ["t"] * 400, seeds=3)
    assert a.seed_noise(many) == pytest.approx(0.2 * np.sqrt(2), rel=0.1)
    assert a.seed_noise(units([1, 2, 3], [1, 2, 3], errors=0.1)) == pytest.approx(0.1 * np.sqrt(2))


@pytest.mark.parametrize("outcome", [np.ones(6), np.arange(6.0)])
def test_what_does_not_vary_has_no_correlation(outcome):
    measure = np.ones(6) if np.ptp(outcome) else np.arange(6.0)
    result = a.associations(units(measure, outcome), replicates=20)["m"]
    assert np.isnan([result.rho.value, result.rho.low, result.tau, result.p]).all()

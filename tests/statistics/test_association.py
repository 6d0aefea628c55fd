"""Correlations over operators against brute-force twins; the bootstrap and the permutations do what they say."""

from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, norm, rankdata, spearmanr

from gradprobe.statistics import association as a

RNG = np.random.default_rng
UNDEFINED = 9.0  # in place of a correlation that is not defined
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


def every_draw(units):
    """Return the correlations that draws of throttles, operators within each and seeds can have: value -> share."""
    seeds = sorted(set(units.seed))
    tree = {}
    for i, (op, throttle, seed) in enumerate(zip(units.operator, units.throttle, units.seed, strict=True)):
        tree.setdefault(throttle, {}).setdefault(op, {})[seed] = i
    shares = Counter()
    for throttles in product(tree, repeat=len(tree)):
        inner = [
            [tree[t][op][s] for t, ops in zip(throttles, operators, strict=True) for op in ops for s in chosen]
            for operators in product(*(product(tree[t], repeat=len(tree[t])) for t in throttles))
            for chosen in product(seeds, repeat=len(seeds))
        ]
        for rows in inner:
            value = a.spearman(units.measures["m"][rows], units.outcome[rows])
            shares[UNDEFINED if np.isnan(value) else round(value, 9)] += 1 / len(tree) ** len(tree) / len(inner)
    return shares


@pytest.mark.parametrize(("throttle", "seeds"), [("aabb", 1), ("aab", 2), ("aabc", 1)])
def test_the_bootstrap_draws_what_can_be_drawn_as_often_as_it_should(throttle, seeds):
    """Against the enumeration of all draws, 64 to 216 of them: each value's share within four standard errors."""
    rng, replicates = RNG(11), 4000
    n = len(throttle) * seeds
    u = units(rng.normal(size=n), rng.normal(size=n), list(throttle), seeds)
    exact = every_draw(u)
    drawn = Counter(np.nan_to_num(a.bootstrap(u, ("m",), replicates=replicates)["m"].round(9), nan=UNDEFINED).tolist())
    assert sum(exact.values()) == pytest.approx(1) and drawn.keys() <= exact.keys() and len(exact) > 5
    for value, share in exact.items():
        assert abs(drawn[value] / replicates - share) <= 4 * np.sqrt(share * (1 - share) / replicates), value


@pytest.mark.parametrize("error", [0.5, 2.0])
def test_the_bootstrap_adds_the_noise_of_images(error):
    """Two operators of two throttles: drawn both, their outcomes change places with a probability that is known."""
    u = units([1.0, 2.0], [0.0, 1.0])
    u.outcome_error[:] = error
    drawn = a.bootstrap(u, ("m",), replicates=4000)["m"]
    both = drawn[np.isfinite(drawn)]
    swapped = norm.cdf(-1 / (error * np.sqrt(2)))
    assert np.isfinite(drawn).mean() == pytest.approx(0.5, abs=0.04)  # the same one twice has no correlation
    assert set(both) == {-1, 1} and np.mean(both < 0) == pytest.approx(swapped, abs=4 / np.sqrt(4 * len(both)))


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
    throttle = list("aabbcc")
    x, y = rng.normal(size=6), rng.normal(size=6)
    blocks = {t: [i for i, other in enumerate(throttle) if other == t] for t in "abc"}
    every = [a.spearman(x, y[[i for t in order for i in blocks[t]]]) for order in permutations("abc")]
    expected = np.mean([abs(r) >= abs(a.spearman(x, y)) - 1e-9 for r in every])
    assert a.throttle_permutations(x, y, throttle) == pytest.approx(expected)


def test_outcomes_are_stretched_to_the_throttle_that_gets_them():
    """Two units of a, one of b, four of c; written out by hand."""
    x, y = np.array([0.3, 0.1, 0.9, 0.2, 0.8, 0.5, 0.4]), np.array([1.0, 2, 3, 4, 5, 6, 7])
    to_two = {"a": [1, 2], "b": [3, 3], "c": [5, 7]}
    to_one = {"a": [2], "b": [3], "c": [6]}
    to_four = {"a": [1, 1, 2, 2], "b": [3, 3, 3, 3], "c": [4, 5, 6, 7]}
    every = [abs(a.spearman(x, [*to_two[i], *to_one[j], *to_four[k]])) for i, j, k in permutations("abc")]
    expected = np.mean([r >= abs(a.spearman(x, y)) - 1e-9 for r in every])
    assert a.throttle_permutations(x, y, list("aabcccc")) == pytest.approx(expected)
    assert 0 < expected < 1


def test_permuted_labels_have_each_p_equally_often():
    """The p-values of all 24 orders of associated throttles: as many are at most p as p says, ties among them."""
    rng = RNG(7)
    throttle = np.repeat(np.arange(4), 3)
    x = throttle + 0.1 * rng.normal(size=12)
    blocks = (x + 0.5 * rng.normal(size=12)).reshape(4, 3)
    orders = list(permutations(range(4)))
    values = np.array([a.throttle_permutations(x, blocks[list(order)].ravel(), list(throttle)) for order in orders])
    assert [np.mean(values <= p + 1e-9) for p in values] == pytest.approx(values.tolist())
    assert values[0] <= 3 / 24 and len(set(values.round(9))) > 12


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3, 3), (1, 4, 2, 2, 6)])
@pytest.mark.parametrize("own", [0.3, 1.0])
def test_without_association_p_is_uniform(sizes, own):
    """Throttles with effects, of one size and of several: Kolmogorov and Smirnov against the discrete uniform."""
    rng, trials, orders = RNG(8), 400, 120
    names = np.repeat(np.arange(len(sizes)), sizes)
    values = []
    for _ in range(trials):
        x, y = (rng.normal(size=len(sizes))[names] + own * rng.normal(size=len(names)) for _ in range(2))
        values.append(a.throttle_permutations(x, y, list(names)))
    steps = np.arange(1, orders + 1) / orders
    shares = np.array([np.mean(np.array(values) <= p + 1e-9) for p in steps])
    assert np.abs(shares - steps).max() < 1.63 / np.sqrt(trials)  # 1 %; blocks put end to end: 0.1 to 0.15


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
    trials = 40 if throttles > 7 else 400
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


def test_a_seed_that_one_operator_alone_has_leaves_an_interval():
    """Some replicates draw that seed alone, and throttles without that operator: they have no correlation."""
    rng = np.random.default_rng(0)
    rows = [(f"r{i}+{t}", t, seed) for t in "abcd" for i in range(3) for seed in (1, 2)] + [("r0+a", "a", 3)]
    operator, throttle, seed = (list(each) for each in zip(*rows, strict=True))
    outcome, measure, error = rng.normal(size=25), rng.normal(size=25), np.zeros(25)
    one = a.Units(operator, throttle, seed, outcome, error, {"m": measure})
    drawn = a.bootstrap(one, ["m"])["m"]
    assert 0 < np.isnan(drawn).sum() < 0.1 * len(drawn)
    rho = a.associations(one)["m"].rho
    assert rho.low < rho.value < rho.high

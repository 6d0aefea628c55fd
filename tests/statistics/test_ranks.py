"""Ranks with intervals: paired over seeds, wide where little is known, and as covering as their docstring says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from gradprobe.errors import UsageError
from gradprobe.statistics.ranks import rank_intervals
from gradprobe.statistics.ratios import seeds_difference

TABLES = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).normal(0.7, 0.1, (5, 6)))
ERROR = 0.016


def test_far_apart_is_ranked_without_doubt_and_alike_with_none():
    means = np.array([0.2, 0.9, 0.5])
    wiggle = np.array([0.01, -0.01, 0.02, 0.0, -0.02])
    far = rank_intervals(means[:, None] + wiggle, np.full((3, 5), 0.001))
    assert [(r.value, r.low, r.high, r.best) for r in far] == [(3, 3, 3, False), (1, 1, 1, True), (2, 2, 2, False)]
    alike = rank_intervals(0.7 + np.stack([wiggle, wiggle[::-1], np.roll(wiggle, 1)]), np.full((3, 5), 0.001))
    assert [(r.value, r.low, r.high, r.best) for r in alike] == [(2, 1, 3, True)] * 3


def test_pairs_over_seeds_tell_apart_what_unpaired_seeds_would_not():
    seeds = np.array([0.1, 0.5, 0.9, 0.3, 0.7])  # all operators are better under the same seeds
    paired = rank_intervals([seeds, seeds - 0.05], np.full((2, 5), 0.001))
    assert [(r.low, r.high) for r in paired] == [(1, 1), (2, 2)]
    crossed = rank_intervals([seeds, seeds[::-1] - 0.05], np.full((2, 5), 0.001))
    assert [(r.low, r.high) for r in crossed] == [(1, 2), (1, 2)]


@given(TABLES, st.floats(0.001, 0.1), st.booleans())
def test_the_interval_counts_what_paired_differences_decide(values, error, shared):
    found = rank_intervals(values, np.full(values.shape, error), shared)
    first = int(values.mean(axis=1).argmax())
    for i, rank in enumerate(found):
        gaps = [seeds_difference(values[i] - other, [2 * error**2] * 6, shared, np.inf) for other in values]
        gaps = [gap for j, gap in enumerate(gaps) if j != i]
        assert rank.low == 1 + sum(gap.high < 0 for gap in gaps)
        assert rank.high == len(values) - sum(gap.low > 0 for gap in gaps)
        to_first = seeds_difference(values[i] - values[first], [2 * error**2] * 6, shared, np.inf)
        assert rank.best == (i == first or not to_first.high < 0)
        assert rank.low <= rank.value <= rank.high


@given(TABLES, st.permutations(range(5)), st.permutations(range(6)))
def test_neither_the_order_of_operators_nor_of_seeds_matters(values, operators, seeds):
    errors = np.full(values.shape, ERROR)
    turned = rank_intervals(values[np.ix_(operators, seeds)], errors)
    plain = rank_intervals(values, errors)
    assert turned == [plain[i] for i in operators]


def test_noise_of_images_and_images_in_common_leave_more_open():
    values = np.array([[0.70, 0.71, 0.72, 0.70, 0.71], [0.66, 0.67, 0.69, 0.67, 0.66], [0.1] * 5])
    widths = []
    for error, shared in ((0.001, False), (0.02, False), (0.02, True)):
        widths.append([r.high - r.low for r in rank_intervals(values, np.full((3, 5), error), shared)])
    assert widths[0] == [0, 0, 0] and widths[1] <= widths[2] and widths[2][0] > 0


def test_missing_seeds_are_left_out_and_fewer_than_five_have_no_rank():
    values = np.full((4, 7), np.nan)
    values[0, :5], values[1, 2:7], values[2, :6], values[3, :4] = 0.9, 0.5, 0.2, 1.0
    found = rank_intervals(values, np.full((4, 7), 0.01))
    assert found[3] is None
    assert [(r.value, r.low, r.high) for r in found[:3]] == [(1, 1, 2), (2, 1, 3), (3, 2, 3)]  # 3 and 4 seeds in common
    errors = np.full((4, 7), 0.01)
    errors[0, 0] = np.nan  # a value without an error is no value
    assert rank_intervals(values, errors)[0] is None
    assert rank_intervals(np.zeros((0, 0)), np.zeros((0, 0))) == []
    assert rank_intervals(np.full((2, 4), 0.5), np.full((2, 4), 0.1)) == [None, None]


@given(st.integers(0, 10**6), st.floats(0.001, 0.05))
def test_where_seeds_are_missing_a_rank_lies_in_its_interval_and_only_what_is_worse_is_not_best(seed, error):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.7, 0.01, (4, 1)) + rng.choice([-0.3, 0.3], 12) + rng.normal(0, 0.002, (4, 12))
    values[rng.random(values.shape) < 0.3] = np.nan  # a seed moves all operators more than these differ
    means = [np.nanmean(row) if np.isfinite(row).sum() >= 5 else -np.inf for row in values]
    first = values[int(np.argmax(means))]
    for row, rank in zip(values, rank_intervals(values, np.full(values.shape, error)), strict=True):
        if rank is not None:
            gaps = (first - row)[np.isfinite(first - row)]
            above = seeds_difference(gaps, [2 * error**2] * len(gaps), False, np.inf) if len(gaps) else None
            assert rank.low <= rank.value <= rank.high
            assert rank.best == (above is None or not above.low > 0)


def test_what_does_not_vary_is_ranked_all_the_same():
    found = rank_intervals([[0.5] * 5, [0.4] * 5, [0.5] * 5], np.zeros((3, 5)))
    assert [(r.value, r.low, r.high) for r in found] == [(1.5, 1, 2), (3, 3, 3), (1.5, 1, 2)]


@pytest.mark.parametrize("errors", [[0.1, 0.1], [[0.1] * 4], [[0.1] * 5, [0.1] * 5]])
def test_tables_of_other_shapes_are_refused(errors):
    with pytest.raises(UsageError, match="an operator a row"):
        rank_intervals([[0.5] * 5], errors)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("apart", [0.0, 1e-4, 0.02, 0.2])
def test_coverage_is_what_the_docstring_says(apart, shared):
    """Ten operators, five seeds; retention that differs by much, by little and by next to nothing, or not at all."""
    rng, trials = np.random.default_rng(5), 100
    means = 0.7 + apart * np.arange(10) / 9
    hits = np.zeros(10)
    for _ in range(trials):
        images = rng.standard_normal((10, 1)) if shared else rng.standard_normal((10, 5))
        values = means[:, None] + 0.05 * rng.standard_normal((10, 5)) + ERROR * images
        found = rank_intervals(values, np.full((10, 5), ERROR), shared)
        hits += [rank.low <= true <= rank.high for rank, true in zip(found, rankdata(-means), strict=True)]
    assert hits.mean() / trials >= 0.94
    assert hits.min() / trials >= 0.75

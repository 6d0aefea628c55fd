"""Scores of sums over units agree with counts by hand; retention is paired."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.errors import UsageError
from gradprobe.statistics.proportions import wilson
from gradprobe.statistics.ratios import Paired, paired_ratio
from gradprobe.statistics.summed import category_sum, f1, retained, score, share

ones = np.ones


def plain(right):
    return np.stack([np.asarray(right, float), ones(len(right))], 1)


def test_a_plain_share_has_wilsons_interval_and_a_paired_ratio():
    ours, theirs = [True] * 6 + [False] * 4, [True] * 4 + [False] * 2 + [True] * 4
    assert score(plain(ours), share) == wilson(6, 10)
    assert retained(plain(ours), plain(theirs), share) == paired_ratio(Paired(4, 2, 4))


@given(st.lists(st.sampled_from(["tp", "fp", "fn", "tn"]), min_size=2, max_size=30))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(outcomes):
    parts = np.array([[each == "tp", each == "fp", each == "fn"] for each in outcomes], float)
    tp, fp, fn = parts.sum(0)
    precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    expected = 2 * precision * recall / (precision + recall) if tp else 0.0
    estimate = score(parts, f1)
    assert estimate.value == pytest.approx(expected)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_categories_count_alike_whatever_their_size():
    parts = np.array([[200, 1, 0, 0], [0, 1, 0, 0], [50, 1, 0, 0], [0, 0, 100, 1]], float)
    assert score(parts, category_sum).value == pytest.approx(250 / 3 + 100)


def test_pairing_makes_an_interval_narrower_than_the_same_answers_in_another_order():
    rng = np.random.default_rng(0)
    theirs = np.stack([rng.choice([0.3, 0.6, 1.0], 200), ones(200)], 1)
    ours = theirs.copy()
    ours[:20, 0] *= 0.5
    paired = retained(ours, theirs, share)
    mixed = retained(ours[rng.permutation(200)], theirs, share)
    assert paired.value == pytest.approx(mixed.value) and paired.value < 1
    assert paired.half < mixed.half / 2
    assert paired.low < paired.value < paired.high


def test_scores_that_no_unit_changes_keep_a_width():
    parts = np.stack([np.full(50, 0.6), ones(50)], 1)
    same = retained(parts, parts, share)
    assert same.value == 1 and same.low < 1 < same.high


@pytest.mark.parametrize("outcome", range(3))
def test_a_score_of_units_that_are_all_alike_has_a_width(outcome):
    parts = np.zeros((50, 3))
    parts[:40, outcome] = 1  # 10 true negatives, which F1 does not see
    right = 40 if outcome == 0 else 0
    assert score(parts, f1) == wilson(right, 40)
    assert score(np.stack([np.full(40, right / 20.0), np.full(40, 2.0)], 1), share) == wilson(right, 40)


def test_other_scores_of_units_that_are_all_alike_have_no_interval():
    for parts, formula in ((np.stack([np.full(9, 0.3), ones(9)], 1), share), (plain([True] * 9), category_sum)):
        estimate = score(parts, formula)
        assert estimate.value > 0 and np.isnan(estimate.low) and np.isnan(estimate.high)


def test_nothing_is_retained_of_nothing():
    none, some = plain([False] * 5) * [[0.5, 1]], np.stack([np.full(5, 0.5), ones(5)], 1)
    assert np.isnan(retained(some, none, share).value)
    zero = retained(none, some, share)
    assert zero.value == 0 and np.isnan(zero.low)
    with pytest.raises(UsageError, match="4 units cannot be paired with 5"):
        retained(some[:4], none, share)

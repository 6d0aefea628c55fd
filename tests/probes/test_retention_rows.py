"""Rows of retention by hand: ratios, seeds, kinds of questions, and their intervals."""

from dataclasses import replace

import numpy as np
import pytest
from retentions import GUMBEL, retained

from gradprobe.errors import GradprobeError
from gradprobe.probes.retention.result import over_seeds, seed_groups
from gradprobe.statistics.ratios import Paired, paired_ratio


def test_a_row_of_one_seed_is_a_ratio_with_bonett_and_prices_interval_over_images():
    row = retained(30, 36).row()
    expected = paired_ratio(Paired(30, 0, 6))
    assert (row["retention"], row["low"], row["high"]) == (30 / 36, expected.low, expected.high)
    assert row["accuracy"] == 0.75 and row["unpruned"] == 0.9 and row["auc"] == pytest.approx(0.9)
    assert row["untrained"] == pytest.approx(10 / 20) and row["loss"] == pytest.approx(1.5)
    assert row["by_seed"] == [pytest.approx(30 / 36)] and row["seeds"] == [0] and row["difference"] is None


def test_no_interval_over_images_is_zero_wide_or_leaves_its_range():
    for right, unpruned in ((40, 40), (36, 36), (0, 36), (1, 36), (40, 36)):
        row = retained(right, unpruned).row(baseline=retained(right, unpruned, op=GUMBEL))
        assert row["low"] < row["retention"] < row["high"] or row["low"] == row["retention"] == 0 < row["high"]
        assert row["low"] >= 0
        assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert retained(40, 36).row()["high"] > 1  # rightly


@pytest.mark.parametrize("count", [2, 3, 4])
def test_fewer_than_five_seeds_are_values_and_no_interval(count):
    results = [retained(18 + 4 * seed, 36, seed=seed) for seed in range(count)]
    base = [retained(10, 36, op=GUMBEL, seed=seed) for seed in range(count)]
    row = over_seeds(results, base)
    values = (18 + 4 * np.arange(count)) / 36
    assert row["by_seed"] == pytest.approx(values) and row["retention"] == pytest.approx(values.mean())
    assert row["low"] is row["high"] is row["difference_low"] is row["difference_high"] is None
    assert row["difference"] == pytest.approx(values.mean() - 10 / 36) and row["difference_seeds"] == count


FIVE = [(16, 4, 39, 4, 16), (36, 36, 35, 36, 36), (0, 0, 0, 0, 0), (36, 36, 36, 36, 36), (1, 0, 0, 2, 0)]


@pytest.mark.parametrize("shares", FIVE)
def test_five_seeds_have_an_interval_that_stays_in_what_is_possible(shares):
    row = over_seeds([retained(n, 36, seed=i) for i, n in enumerate(shares)])
    assert row["retention"] == pytest.approx(np.mean(shares) / 36)
    assert 0 <= row["low"] <= row["retention"] <= row["high"] <= 40 / 36 + 1e-9
    assert row["low"] < row["high"]


def test_seeds_that_differ_widen_the_interval_and_images_are_its_floor():
    same, apart = (
        [retained(n, 36, seed=i, data="scenes") for i, n in enumerate(each)]
        for each in ((20,) * 5, (10, 30, 12, 28, 20))
    )
    one, all_seeds, wide = retained(20, 36).row(), over_seeds(same), over_seeds(apart)
    assert wide["high"] - wide["low"] > 2 * (all_seeds["high"] - all_seeds["low"])
    assert all_seeds["high"] - all_seeds["low"] < one["high"] - one["low"]


def test_images_that_seeds_share_are_no_more_images():
    own, shared = (
        over_seeds([retained(20, 36, seed=i, data=data) for i in range(5)]) for data in ("scenes", "sha256:0123")
    )
    assert shared["high"] - shared["low"] > 2 * (own["high"] - own["low"])


def test_seeds_of_a_ranking_are_more_images():
    one = over_seeds([retained(20, 36, op="ranked:random", data="scenes")])
    two = over_seeds([retained(20, 36, op="ranked:random", seed=s, data="scenes") for s in (1, 2)])
    assert one["high"] - one["low"] > two["high"] - two["low"] > 0


def test_kinds_of_questions_are_a_mean_of_ratios_that_has_a_width_at_one():
    kind = np.repeat([0, 1], 20)
    result = replace(retained(36, 36), kind=kind.astype(np.uint8))
    row = result.row(baseline=replace(result, question=result.question | {"op": GUMBEL}))
    assert row["by_kind"] == [[1, 1]] and row["retention"] == 1
    assert row["low"] < 1 < row["high"] and row["difference_low"] < 0 < row["difference_high"]


def test_differences_are_paired_by_seed():
    ours = [retained(30 - i, 36, seed=i) for i in range(6)]
    base = [retained(25 - i % 3, 36, op=GUMBEL, seed=i) for i in (5, 4, 3, 2, 1, 9)]
    row = over_seeds(ours, base)
    pairs = np.array([(30 - i - 25 + i % 3) / 36 for i in range(1, 6)])
    assert row["difference"] == pytest.approx(pairs.mean()) and row["difference_seeds"] == 5
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert over_seeds(ours, [retained(seed=7)])["difference"] is None


def test_one_seed_is_paired_image_by_image():
    ours, base = retained(30, 36), retained(29, 36, op=GUMBEL)
    row = ours.row(baseline=base)
    assert row["difference"] == pytest.approx(1 / 36)
    alone = ours.row()
    assert row["difference_high"] - row["difference_low"] < 0.9 * (alone["high"] - alone["low"])  # shared images cancel


def test_nothing_right_unpruned_is_undefined_not_zero():
    row = retained(0, 0).row()
    assert row["retention"] is None and row["low"] is None and row["by_seed"] == [None] and row["untrained"] is None
    assert over_seeds([retained(0, 0), retained(seed=1)], [retained(0, 0, op=GUMBEL)])["retention"] is None


def test_groups_differ_in_seed_alone_and_random_weights_are_the_seeds():
    results = [
        retained(seed=0), retained(seed=1), retained(seed=0, op=GUMBEL), retained(seed=0, k=5), retained(seed=2),
        retained(seed=0, weights="random:0"), retained(seed=1, weights="random:1"), retained(weights="sha256:4567"),
    ]  # fmt: skip
    groups = seed_groups(results)
    assert [[results.index(r) for r in group] for group in groups] == [[0, 1, 4], [2], [3], [5, 6], [7]]


def test_a_row_needs_shapes_that_fit():
    with pytest.raises(GradprobeError, match="unpruned of a retention result has shape"):
        replace(retained(), unpruned=np.zeros(3))
    with pytest.raises(GradprobeError, match="curve of a retention result has shape"):
        replace(retained(), at=np.array([1]))

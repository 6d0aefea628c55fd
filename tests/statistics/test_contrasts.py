"""Weighted sums of retentions on the same images: value, variance and coverage over seeds."""

import numpy as np
import pytest
from scipy.special import ndtri

from gradprobe.errors import GradprobeError
from gradprobe.statistics.contrasts import contrast, contrast_over_seeds
from gradprobe.statistics.retained import Graded, difference, pooled, retention


def graded(rng, unpruned, shares, images=400, alike=0.7, hard=None):
    """Images of four kinds; ``hard`` makes models fail on the same ones."""
    kind = np.arange(images) % 4
    hard = rng.normal(size=images) if hard is None else hard
    known = rng.random(images) < unpruned
    kept = (
        np.sqrt(alike) * hard + np.sqrt(1 - alike) * rng.normal(size=images) < ndtri(np.broadcast_to(shares, 4))[kind]
    )
    return Graded(known & kept, known, kind)


def pair(rng, ours, theirs, images=400, spread=0.0):
    """A larger and a smaller model on the same images."""
    hard = rng.normal(size=images)
    shares = (np.clip(rng.normal(share, spread), 0.01, 0.999) for share in (ours, theirs))
    a, b = (graded(rng, u, s, images, hard=hard) for u, s in zip((0.98, 0.95), shares, strict=True))
    return [(1.0, a), (-1.0, b)]


def test_the_value_is_the_weighted_sum_of_retentions():
    rng = np.random.default_rng(0)
    a, b, c = (graded(rng, 0.9, [0.9, 0.8, 0.7, 0.6]) for _ in range(3))
    value, variance = contrast([(2.0, a), (-1.5, b), (0.5, c)])
    assert value == pytest.approx(2 * retention(a).value - 1.5 * retention(b).value + 0.5 * retention(c).value)
    assert variance > 0
    assert contrast([(-2.0, a), (1.5, b), (-0.5, c)]) == pytest.approx((-value, variance))


def test_two_operators_on_one_model_differ_as_their_counts_say():
    rng, pairs = np.random.default_rng(1), []
    for _ in range(5):
        a = graded(rng, 0.95, 0.9)
        pairs.append((a, a._replace(correct=a.unpruned & (rng.random(400) < 0.85))))
    ours = contrast_over_seeds([[(1.0, a), (-1.0, b)] for a, b in pairs], shared=False)
    counted = difference(pairs, shared=False)
    assert ours.value == pytest.approx(counted.value)
    assert ours.half == pytest.approx(counted.half, rel=0.05)


def test_the_variance_is_that_of_repeated_draws_of_images():
    rng = np.random.default_rng(2)
    draws = [contrast(pair(rng, 0.9, 0.7)) for _ in range(600)]
    values, variances = zip(*draws, strict=True)
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.2)


def test_agreement_leaves_a_width_and_few_seeds_none():
    same = graded(np.random.default_rng(3), 1.0, 0.9)
    estimate = contrast_over_seeds([[(1.0, same), (-1.0, same)]] * 5, shared=False)
    assert estimate.value == 0 and estimate.low < 0 < estimate.high
    few = contrast_over_seeds([[(1.0, same), (-1.0, same)]] * 4, shared=False)
    assert few.value == 0 and np.isnan(few.low) and np.isnan(few.high)


def test_what_is_possible_is_a_mean_over_kinds():
    """A quarter of one kind and all of the other right unpruned, all of both with K tokens: 2.5, the most there is."""
    kind, unpruned = np.repeat([0, 1], 40), np.arange(80) >= 30
    most = Graded(np.ones(80, bool), unpruned, kind)
    less = [Graded(np.arange(80) >= 4 * i, unpruned, kind) for i in range(5)]
    whole = pooled([most] * 5, trained=True, shared=False)
    assert whole.value == whole.high == 2.5 > whole.low
    some = pooled(less, trained=True, shared=False)
    assert some.low < some.value < some.high <= 2.5
    alone = contrast_over_seeds([[(1.0, most)]] * 5, shared=False)
    assert alone.low < alone.value < alone.high


def test_different_images_are_refused_and_a_model_that_knows_nothing_is_undefined():
    rng = np.random.default_rng(4)
    a, shorter = graded(rng, 0.9, 0.8), graded(rng, 0.9, 0.8, images=200)
    for other in (shorter, a._replace(kind=a.kind[::-1])):
        with pytest.raises(GradprobeError, match="same images"):
            contrast([(1.0, a), (-1.0, other)])
    blind = a._replace(unpruned=np.where(a.kind == 0, False, a.unpruned))
    assert np.isnan(contrast([(1.0, blind)])).all()
    assert np.isnan(contrast_over_seeds([], shared=False).value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "spread", "images", "low", "high"),
    [
        (0.95, 0.90, 0.0, 2000, 0.97, 1),  # the images' share is counted in full where seeds hardly differ
        (0.95, 0.90, 0.02, 2000, 0.92, 0.98),
        (0.99, 0.98, 0.003, 2000, 0.94, 1),
        (0.70, 0.50, 0.05, 2000, 0.92, 0.98),
        (0.95, 0.90, 0.02, 200, 0.94, 1),
    ],
)
def test_coverage_of_the_difference_of_two_models(ours, theirs, spread, images, low, high):
    rng, hits = np.random.default_rng(5), []
    for _ in range(1000):
        estimate = contrast_over_seeds([pair(rng, ours, theirs, images, spread) for _ in range(5)], shared=False)
        hits.append(estimate.low <= ours - theirs <= estimate.high)
    assert low <= np.mean(hits) <= high

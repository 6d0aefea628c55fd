"""Retention over test images, kinds of questions and seeds, each with its interval (no torch).

Retention is a ratio of two accuracies on the same images; where there are kinds of questions it is the mean of their
ratios. The intervals are those of `gradprobe.statistics.ratios`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.proportions import Pairs
from gradprobe.statistics.ratios import (
    Paired,
    mean_of,
    over_seeds,
    paired_ratio,
    relative_variance,
    retained_difference,
    seeds_difference,
)


class Graded(NamedTuple):
    """Test images of one seed, graded.

    Attributes:
        correct: whether each is right with K tokens, ``(I,)``.
        unpruned: whether it is right with all N, ``(I,)``.
        kind: kind of question that is asked about it, ``(I,)``; empty if there is one kind.
    """

    correct: np.ndarray
    unpruned: np.ndarray
    kind: np.ndarray


def by_kind(images: Graded) -> list[Estimate]:
    """Return the retention of each kind of question over its images; kinds have no image in common."""
    return [paired_ratio(counts) for counts in _counts(images)]


def retention(images: Graded) -> Estimate:
    """Return the retention of one seed, with an interval over its images.

    Example:
        >>> estimate = retention(Graded(np.arange(40) < 30, np.arange(40) < 36, np.zeros(0)))
        >>> round(estimate.low, 2), round(estimate.value, 2), round(estimate.high, 2)
        (0.71, 0.83, 0.97)
    """
    kinds = by_kind(images)
    return mean_of(kinds) if len(kinds) > 1 else kinds[0]


def standard_error(images: Graded) -> float:
    """Return the standard error of a retention over its images, never 0.

    Example:
        >>> round(standard_error(Graded(np.arange(40) < 30, np.arange(40) < 36, np.zeros(0))), 3)
        0.07
    """
    return float(np.sqrt(_variance(images)))


def pooled(seeds: Sequence[Graded], trained: bool, shared: bool) -> Estimate:
    """Return the mean retention over seeds, with its interval.

    Args:
        seeds: one or several.
        trained: whether each seed is a training; those of a ranking are just more images.
        shared: whether the seeds have their images in common.
    """
    estimates = [retention(images) for images in seeds]
    if len(seeds) == 1:
        return estimates[0]
    if not trained:
        return mean_of(estimates, shared)
    variances = [_variance(images) for images in seeds]
    return over_seeds([e.value for e in estimates], variances, estimates, shared, _most(seeds))


def difference(pairs: Sequence[tuple[Graded, Graded]], shared: bool) -> Estimate:
    """Return the mean over seeds of the difference of two retentions, ours less theirs, with its interval.

    Args:
        pairs: ours and theirs of each seed.
        shared: whether the seeds have their images in common.

    Returns:
        NaN ends where ours and theirs are not of the same images.
    """
    values = [retention(a).value - retention(b).value for a, b in pairs]
    if not all(np.array_equal(a.unpruned, b.unpruned) and np.array_equal(a.kind, b.kind) for a, b in pairs):
        return Estimate(float(np.mean(values)), np.nan, np.nan)
    tables = [_pairs(a, b) for a, b in pairs]
    over_images = [mean_of([retained_difference(*each) for each in kinds]) for kinds in tables]
    if len(pairs) == 1:
        return Estimate(values[0], over_images[0].low, over_images[0].high)
    variances = [
        sum((p.gained + p.lost + 1) / max(unpruned, 1) ** 2 for p, unpruned in kinds) / len(kinds) ** 2
        for kinds in tables
    ]
    return seeds_difference(values, variances, shared, _most([ours for ours, _ in pairs]))


def _variance(images: Graded) -> float:
    """Variance of a retention over its images, never 0."""
    counts = _counts(images)
    parts = [((c.both + c.ours + 1) / (c.both + c.theirs + 1)) ** 2 * relative_variance(c) for c in counts]
    return float(np.sum(parts)) / len(parts) ** 2


def _most(seeds: Sequence[Graded]) -> float:
    """Largest retention there can be: 1 over the unpruned accuracy, the mean of that over kinds of questions."""
    by_kind: dict[int, list[float]] = {}
    for images in seeds:
        names = np.unique(images.kind).tolist() or [0]
        for name, those in zip(names, kinds_of(images), strict=True):
            by_kind.setdefault(name, []).append(float(images.unpruned[those].mean()))
    return float(np.mean([1 / max(float(np.mean(each)), 1e-300) for each in by_kind.values()]))


def _counts(images: Graded) -> list[Paired]:
    counts = []
    for those in kinds_of(images):
        a, b = images.correct[those].astype(bool), images.unpruned[those].astype(bool)
        counts.append(Paired(int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())))
    return counts


def _pairs(ours: Graded, theirs: Graded) -> list[tuple[Pairs, int]]:
    """Agreement of two operators on the images of each kind, and the number that the unpruned model gets right."""
    tables = []
    for those in kinds_of(ours):
        a, b = ours.correct[those].astype(bool), theirs.correct[those].astype(bool)
        tables.append((Pairs(int((a & ~b).sum()), int((b & ~a).sum()), len(a)), int(ours.unpruned[those].sum())))
    return tables


def kinds_of(images: Graded) -> list[np.ndarray]:
    """Return masks of the images of each kind of question."""
    if len(images.kind):
        return [images.kind == each for each in np.unique(images.kind)]
    return [np.ones(len(images.correct), bool)]

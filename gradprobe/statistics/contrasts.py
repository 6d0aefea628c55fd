"""Weighted sums of retentions on the same images, of one model at several budgets or of several models (no torch).

`gradprobe.statistics.retained.difference` counts images on which two operators on one model disagree. Two models also
differ in what they get right with all tokens, so here each image enters with its influence on the sum.
"""

from collections.abc import Sequence

import numpy as np

from gradprobe.errors import GradprobeError
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.ratios import seeds_difference
from gradprobe.statistics.retained import Graded, kinds_of

Term = tuple[float, Graded]


def contrast(terms: Sequence[Term]) -> tuple[float, float]:
    """Return ``sum_j w_j R_j`` of one seed and its variance over images.

    R_j is the mean over G kinds of ``R_jg = sum_i c_ji / sum_i u_ji``, c and u telling whether image i of kind g is
    right with K tokens and with all. To first order image i moves the sum by
    ``e_i = sum_j w_j (c_ji - R_jg u_ji) / sum_i u_ji``, so the variance is ``sum_g (sum_i e_i^2 + f_g) / G^2``. As in
    `gradprobe.statistics.retained.difference` one image more that differs, ``f_g = max_j (w_j / sum_i u_ji)^2``, keeps
    it above 0.

    Args:
        terms: Weights, and the same images as each model or budget grades them.

    Returns:
        Value and variance; NaN where a model gets no image of a kind right with all tokens.

    Raises:
        GradprobeError: The images are not the same.

    Example:
        >>> images, one_kind = np.arange(40), np.zeros(0)
        >>> large = Graded(images < 36, images < 36, one_kind)
        >>> small = Graded(images < 18, images < 30, one_kind)
        >>> value, variance = contrast([(1.0, large), (-1.0, small)])
        >>> round(value, 3), round(variance**0.5, 3)
        (0.4, 0.095)
    """
    kind = terms[0][1].kind
    if any(len(g.correct) != len(terms[0][1].correct) or not np.array_equal(g.kind, kind) for _, g in terms):
        raise GradprobeError("retentions on different images cannot be set against each other; give the same images")
    groups = [kind == each for each in np.unique(kind)] or [np.ones(len(terms[0][1].correct), bool)]
    value = variance = 0.0
    for those in groups:
        moved, most = np.zeros(int(those.sum())), 0.0
        for weight, images in terms:
            right, unpruned = (x[those].astype(float) for x in (images.correct, images.unpruned))
            if not (known := unpruned.sum()):
                return float("nan"), float("nan")
            share = right.sum() / known
            value += weight * share / len(groups)
            moved += weight * (right - share * unpruned) / known
            most = max(most, abs(weight) / known)
        variance += (float(moved @ moved) + most**2) / len(groups) ** 2
    return float(value), float(variance)


def contrast_over_seeds(seeds: Sequence[Sequence[Term]], shared: bool) -> Estimate:
    """Return the mean of a contrast over seeds, with images nested, see `gradprobe.statistics.ratios.seeds_difference`.

    Args:
        seeds: Terms of each seed, with the same weights.
        shared: True if the seeds have their images in common.

    Returns:
        Mean; its ends are NaN with fewer than 5 seeds, and all of it is with none.
    """
    if not seeds:
        return Estimate(np.nan, np.nan, np.nan)
    values, variances = zip(*(contrast(terms) for terms in seeds), strict=True)
    return seeds_difference(values, variances, shared, _most(seeds))


def _most(seeds: Sequence[Sequence[Term]]) -> float:
    """Return a bound of the contrast: the weights over the lowest unpruned accuracy of a kind of questions."""
    graded = [images for terms in seeds for _, images in terms]
    lowest = min(float(images.unpruned[those].mean()) for images in graded for those in kinds_of(images))
    return sum(abs(weight) for weight, _ in seeds[0]) / max(lowest, 1e-300)

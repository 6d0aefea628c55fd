"""Intervals of retention, a ratio of two accuracies: over images, over kinds of questions, and over seeds (no torch).

Both accuracies are of the same images, so the ratio is one of paired proportions. Each interval has a width, also where
all images agree, and stays in the range of its statistic.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.proportions import LEVEL, Pairs, tango, wilson

FEWEST_SEEDS = 5  # trained scorers; with fewer there is no interval over seeds, and no difference is decided


class Paired(NamedTuple):
    """Counts of two models on the same images: right with both, with ours alone, with theirs alone."""

    both: int
    ours: int
    theirs: int


def paired_ratio(counts: Paired, level: float = LEVEL) -> Estimate:
    """Return the ratio of two paired proportions, ours over theirs, with Bonett and Price's hybrid Wilson interval.

    With ``m = both + ours + theirs``, ``a = both + ours``, ``b = both + theirs``, the ends are ``low(a)/high(b)`` and
    ``high(a)/low(b)`` of two Wilson intervals of a/m and b/m, whose z is reduced for the pairing:
    ``z sqrt((ours + theirs + 2) / ((a + 1)(b + 1))) / (sqrt((1 - (a + 1)/(m + 2)) / (a + 1)) + the same of b)``.
    It has a width where all images agree, and may rightly end above 1.

    Args:
        counts: Counts of images; those that both get wrong play no part.
        level: Level of the interval.

    Returns:
        Ratio; NaN if theirs is never right.

    Source: Bonett and Price 2006, "Confidence intervals for a ratio of binomial proportions based on paired data",
    Statistics in Medicine 25.

    Example:
        >>> ratio = paired_ratio(Paired(992, 0, 0))
        >>> round(ratio.low, 4), ratio.value, round(ratio.high, 4)
        (0.9981, 1.0, 1.0019)
    """
    both, ours, theirs = counts
    m, a, b = both + ours + theirs, both + ours, both + theirs
    if b == 0:
        return Estimate(np.nan, np.nan, np.nan)
    apart = sqrt((1 - (a + 1) / (m + 2)) / (a + 1)) + sqrt((1 - (b + 1) / (m + 2)) / (b + 1))
    z = float(ndtri((1 + level) / 2)) * sqrt(relative_variance(counts)) / apart
    (low_a, high_a), (low_b, high_b) = (_score_ends(x, m, z) for x in (a, b))
    return Estimate(a / b, low_a / high_b, high_a / low_b)


def relative_variance(counts: Paired) -> float:
    """Return the variance of a log paired ratio over images, never 0: ``(ours + theirs + 2) / ((a + 1)(b + 1))``.

    Source: Bonett and Price 2006.
    """
    both, ours, theirs = counts
    return (ours + theirs + 2) / ((both + ours + 1) * (both + theirs + 1))


def mean_of(estimates: Sequence[Estimate], shared: bool = False) -> Estimate:
    """Return the mean of estimates with the interval ``mean -+ sqrt(sum d_i^2) / n``, d_i their half widths.

    Args:
        estimates: Estimates, whose intervals need not be symmetric.
        shared: True if they are of the same images, so that their errors may be common: half widths are averaged.

    Source: Zou and Donner 2008 (MOVER), for independent estimates.

    Example:
        >>> mean = mean_of([Estimate(0.5, 0.2, 0.6), Estimate(0.75, 0.35, 0.75)])
        >>> round(mean.low, 3), mean.value, round(mean.high, 3)
        (0.375, 0.625, 0.675)
    """
    values, lows, highs = np.array([(e.value, e.low, e.high) for e in estimates]).T
    down, up = ((d.sum() if shared else np.sqrt(d @ d)) / len(values) for d in (values - lows, highs - values))
    value = values.mean()
    return Estimate(float(value), float(value - down), float(value + up))


def retained_difference(pairs: Pairs, unpruned: int, level: float = LEVEL) -> Estimate:
    """Return the difference of two retentions on the same images: that of the accuracies over the unpruned accuracy.

    The interval is Tango's of the paired difference over Wilson's of the unpruned accuracy, by the method of variance
    estimates recovery for a ratio. It has a width where no image differs.

    Args:
        pairs: Counts of images right with ours alone, with the other alone, and all.
        unpruned: Number of images that the unpruned model gets right.
        level: Level of the interval.

    Returns:
        Difference; NaN if the unpruned model is never right.

    Source: Donner and Zou 2012, "Closed-form confidence intervals for functions of the normal mean and standard
    deviation", for the ratio.

    Example:
        >>> gap = retained_difference(Pairs(0, 0, 1000), 992)
        >>> round(gap.low, 4), gap.value, round(gap.high, 4)
        (-0.0039, 0.0, 0.0039)
    """
    if unpruned == 0:
        return Estimate(np.nan, np.nan, np.nan)
    gap, all_tokens = tango(pairs, level), wilson(unpruned, pairs.n, level)
    a, b = gap.value, all_tokens.value
    low_b, high_b = b - all_tokens.low, all_tokens.high - b
    ratio = a / b
    down = _ratio_reach(ratio, b, a - gap.low, high_b if a > 0 else low_b, -1)
    up = _ratio_reach(ratio, b, gap.high - a, high_b if a < 0 else low_b, 1)
    return Estimate(ratio, ratio - down, ratio + up)


def over_seeds(
    values: Sequence[float], variances: Sequence[float], images: Sequence[Estimate], shared: bool, most: float
) -> Estimate:
    """Return mean retention over trainings with an interval on the logit scale, images nested in seeds.

    The variance of the mean is ``s^2 / n`` with s^2 that of the n seeds, which includes the share of their own images;
    if the seeds share their images, the mean variance over images w is added: ``v = s^2 / n + w``. With
    ``p = mean / most`` the ends are ``most expit(logit p -+ t sqrt(v) / (most p (1 - p)))``, so that they stay in the
    possible range; t has Satterthwaite's degrees of freedom ``(n - 1) (v n / s^2)^2``. Where seeds differ no more than
    their images explain, the interval is `mean_of` those over images.

    Args:
        values: Retention of each seed.
        variances: Variance of each over its images.
        images: Interval of each over its images.
        shared: True if all seeds have the same test images.
        most: Largest possible retention, 1 over the unpruned accuracy.

    Returns:
        Mean; its ends are NaN with fewer than 5 seeds, whose values say more than an interval. Coverage: 0.93 to 0.97,
        0.90 near 1 with 64 images, 0.99 where seeds share their images and hardly differ (docs/statistics.md).

    Example:
        >>> counts = [Paired(900 + i, 3, 60 - i) for i in (0, 20, 5, 30, 12)]
        >>> ratios = [paired_ratio(each) for each in counts]
        >>> spread = [r.value**2 * relative_variance(c) for r, c in zip(ratios, counts)]
        >>> mean = over_seeds([r.value for r in ratios], spread, ratios, shared=False, most=1.01)
        >>> round(mean.low, 3), round(mean.value, 3), round(mean.high, 3)
        (0.937, 0.955, 0.968)
    """
    n, value = len(values), float(np.mean(values))
    if n < FEWEST_SEEDS:
        return Estimate(value, np.nan, np.nan)
    between, within = float(np.var(values, ddof=1)), float(np.mean(variances))
    share = value / most
    if between <= within or not 0 < share < 1:
        mean = mean_of(images, shared)
        high = max(min(mean.high, most), value)  # a mean of ratios may pass the ratio of the means
        return Estimate(value, max(mean.low, 0.0), high)
    reach = reach_over_seeds(between, within, n, shared) / (most * share * (1 - share))
    low, high = (most * float(expit(logit(share) + side * reach)) for side in (-1, 1))
    return Estimate(value, low, high)


def seeds_difference(values: Sequence[float], variances: Sequence[float], shared: bool, most: float) -> Estimate:
    """Return the mean over seeds of a paired difference of retentions, with an interval as in `over_seeds`.

    Args:
        values: Difference of each seed.
        variances: Variance of each over its images.
        shared: True if all seeds have the same test images.
        most: Largest possible difference, to which the ends are cut.

    Returns:
        Mean, always inside its interval; its ends are NaN with fewer than 5 seeds.
    """
    n, value = len(values), float(np.mean(values))
    if n < FEWEST_SEEDS:
        return Estimate(value, np.nan, np.nan)
    between, within = float(np.var(values, ddof=1)), float(np.mean(variances))
    reach = reach_over_seeds(max(between, within), within, n, shared)
    low, high = max(value - reach, -most), min(value + reach, most)
    return Estimate(value, min(low, value), max(high, value))  # a mean of ratios may pass the ratio of the means


def reach_over_seeds(between: float, within: float, n: int, shared: bool) -> float:
    """Return half the width of an interval of a mean over seeds, with Satterthwaite's degrees of freedom.

    Args:
        between: Variance between seeds, above 0.
        within: Mean variance within a seed, over its images.
        n: Number of seeds.
        shared: True if all seeds have the same images.
    """
    seeds = between / n
    total = seeds + (within if shared else 0)
    freedom = (n - 1) * (total / seeds) ** 2
    return float(stdtrit(freedom, (1 + LEVEL) / 2) * sqrt(total))


def _score_ends(x: int, n: int, z: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval of x of n for a given z."""
    centre, half = 2 * x + z * z, z * sqrt(z * z + 4 * x * (1 - x / n))
    scale = 2 * (n + z * z)
    return (centre - half) / scale if x else 0.0, (centre + half) / scale if x < n else 1.0


def _ratio_reach(ratio: float, below: float, above_by: float, below_by: float, side: int) -> float:
    """Return the distance from a ratio a/b to an end of its interval, ``(a b + side sqrt(...)) / (b^2 - d^2)``."""
    share = below_by / below
    if share >= 1:
        return np.inf
    scaled = above_by / below
    root = sqrt((ratio * share) ** 2 + scaled**2 * (1 - share**2))
    return side * ((ratio + side * root) / (1 - share**2) - ratio)

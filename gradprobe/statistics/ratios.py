"""Intervals of retention: a ratio of two accuracies over images, over kinds of questions, and over seeds (no torch).

Both accuracies are of the same images, so a ratio is one of paired proportions. None of these intervals has no width,
also where all images agree, and none leaves the range of what it is an interval of.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri
from scipy.stats import t as student

from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.proportions import LEVEL, Pairs, tango, wilson

FEWEST_SEEDS = 5  # trained scorers from which on an interval over seeds is given and a difference is decided


class Paired(NamedTuple):
    """How two models fare on the same images: right with both, with ours alone, with theirs alone."""

    both: int
    ours: int
    theirs: int


def paired_ratio(counts: Paired, level: float = LEVEL) -> Estimate:
    """Ratio of two paired proportions, ours over theirs, with the hybrid Wilson interval of Bonett and Price.

    With ``m = both + ours + theirs``, ``a = both + ours``, ``b = both + theirs``, the ends are ``low(a)/high(b)`` and
    ``high(a)/low(b)`` of two Wilson intervals of a/m and b/m, whose z is made smaller for the pairing:
    ``z sqrt((ours + theirs + 2) / ((a + 1)(b + 1))) / (sqrt((1 - (a + 1)/(m + 2)) / (a + 1)) + the same of b)``.
    It has a width where all images agree, and may end above 1, rightly.

    Args:
        counts: images; those that both get wrong do not count.
        level: of the interval.

    Returns:
        NaN where theirs is never right.

    Source: Bonett and Price 2006, "Confidence intervals for a ratio of binomial proportions based on paired data",
    Statistics in Medicine 25.

    Example:
        >>> found = paired_ratio(Paired(992, 0, 0))
        >>> round(found.low, 4), found.value, round(found.high, 4)
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
    """Variance of the logarithm of a paired ratio over images, never 0: ``(ours + theirs + 2) / ((a + 1)(b + 1))``.

    Source: Bonett and Price 2006.
    """
    both, ours, theirs = counts
    return (ours + theirs + 2) / ((both + ours + 1) * (both + theirs + 1))


def mean_of(estimates: Sequence[Estimate], shared: bool = False) -> Estimate:
    """Mean of several estimates, its interval from theirs: ``mean -+ sqrt(sum d_i^2) / n`` with d_i their half widths.

    Args:
        estimates: each with an interval of its own, which need not be symmetric.
        shared: they are of the same images, so that their errors may be common: half widths are averaged instead.

    Source: Zou and Donner 2008 (MOVER), for independent estimates.

    Example:
        >>> found = mean_of([Estimate(0.5, 0.2, 0.6), Estimate(0.75, 0.35, 0.75)])
        >>> round(found.low, 3), found.value, round(found.high, 3)
        (0.375, 0.625, 0.675)
    """
    values, lows, highs = np.array([(e.value, e.low, e.high) for e in estimates]).T
    down, up = ((d.sum() if shared else np.sqrt(d @ d)) / len(values) for d in (values - lows, highs - values))
    value = values.mean()
    return Estimate(float(value), float(value - down), float(value + up))


def retained_difference(pairs: Pairs, unpruned: int, level: float = LEVEL) -> Estimate:
    """Difference of two retentions on the same images: that of two accuracies over the unpruned model's.

    Tango's interval of the paired difference over Wilson's of the unpruned accuracy, by the method of variance
    estimates recovery for a ratio. It has a width where no image differs.

    Args:
        pairs: images right with ours alone, with the other alone, and all.
        unpruned: images that the unpruned model gets right.
        level: of the interval.

    Returns:
        NaN where the unpruned model is never right.

    Source: Donner and Zou 2012, "Closed-form confidence intervals for functions of the normal mean and standard
    deviation", for the ratio.

    Example:
        >>> found = retained_difference(Pairs(0, 0, 1000), 992)
        >>> round(found.low, 4), found.value, round(found.high, 4)
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
    """Mean retention over trainings, its interval on the logit scale with seeds and images nested.

    The variance of the mean is ``s^2 / n`` with s^2 that of the n seeds, which holds their own images' share; where the
    seeds have their images in common, the mean variance over images w is added: ``v = s^2 / n + w``. With
    ``p = mean / most`` the ends are ``most expit(logit p -+ t sqrt(v) / (most p (1 - p)))``, so that they stay in what
    is possible; t has Satterthwaite's degrees of freedom ``(n - 1) (v n / s^2)^2``. Where seeds differ no more than
    their images alone would make them, images decide: `mean_of` the intervals over images.

    Args:
        values: retention of each seed.
        variances: of each over its images.
        images: each one's interval over its images.
        shared: all seeds have the same test images.
        most: what retention can be at most, 1 over the unpruned accuracy.

    Returns:
        NaN ends with fewer than 5 seeds: the values say more than an interval of so few. Coverage: 0.93 to 0.97, 0.90
        near 1 with 64 images, 0.99 where seeds share their images and hardly differ (docs/statistics.md).

    Example:
        >>> counts = [Paired(900 + i, 3, 60 - i) for i in (0, 20, 5, 30, 12)]
        >>> ratios = [paired_ratio(each) for each in counts]
        >>> spread = [r.value**2 * relative_variance(c) for r, c in zip(ratios, counts)]
        >>> found = over_seeds([r.value for r in ratios], spread, ratios, shared=False, most=1.01)
        >>> round(found.low, 3), round(found.value, 3), round(found.high, 3)
        (0.937, 0.955, 0.968)
    """
    n, value = len(values), float(np.mean(values))
    if n < FEWEST_SEEDS:
        return Estimate(value, np.nan, np.nan)
    between, within = float(np.var(values, ddof=1)), float(np.mean(variances))
    share = value / most
    if between <= within or not 0 < share < 1:
        found = mean_of(images, shared)
        return Estimate(value, max(found.low, 0.0), min(found.high, most))
    reach = _reach(between, within, n, shared) / (most * share * (1 - share))
    low, high = (most * float(expit(logit(share) + side * reach)) for side in (-1, 1))
    return Estimate(value, low, high)


def seeds_difference(values: Sequence[float], variances: Sequence[float], shared: bool, most: float) -> Estimate:
    """Mean over seeds of a paired difference of retentions, seeds and images nested as in `over_seeds`.

    Args:
        values: difference of each seed.
        variances: of each over its images.
        shared: all seeds have the same test images.
        most: the largest difference there can be.

    Returns:
        NaN ends with fewer than 5 seeds.
    """
    n, value = len(values), float(np.mean(values))
    if n < FEWEST_SEEDS:
        return Estimate(value, np.nan, np.nan)
    between, within = float(np.var(values, ddof=1)), float(np.mean(variances))
    reach = _reach(max(between, within), within, n, shared)
    return Estimate(value, max(value - reach, -most), min(value + reach, most))


def _reach(between: float, within: float, n: int, shared: bool) -> float:
    """Half an interval of a mean over seeds."""
    seeds = between / n
    total = seeds + (within if shared else 0)
    freedom = (n - 1) * (total / seeds) ** 2
    return float(student.ppf((1 + LEVEL) / 2, freedom) * sqrt(total))


def _score_ends(x: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval of x of n with a z of its own."""
    centre, half = 2 * x + z * z, z * sqrt(z * z + 4 * x * (1 - x / n))
    scale = 2 * (n + z * z)
    return (centre - half) / scale if x else 0.0, (centre + half) / scale if x < n else 1.0


def _ratio_reach(ratio: float, below: float, above_by: float, below_by: float, side: int) -> float:
    """Distance from a ratio a/b to one end of its interval: ``(a b + side sqrt(...)) / (b^2 - d^2)`` less a/b."""
    share = below_by / below
    if share >= 1:
        return np.inf
    scaled = above_by / below
    root = sqrt((ratio * share) ** 2 + scaled**2 * (1 - share**2))
    return side * ((ratio + side * root) / (1 - share**2) - ratio)

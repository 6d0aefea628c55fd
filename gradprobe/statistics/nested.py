"""Means over seeds with intervals in which images are nested in seeds, for any statistic (numpy and scipy; no torch).

Each seed has its own scorer, noise and order of images, and gives an estimate with an interval over its images. The
mean is taken on the scale on which errors are nearly normal, and transformed back. Retention has a construction of its
own, since the two accuracies of a seed are counts: `gradprobe.statistics.ratios.over_seeds`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gradprobe.statistics.estimates import ROUNDING, Estimate
from gradprobe.statistics.proportions import LEVEL
from gradprobe.statistics.ratios import FEWEST_SEEDS, mean_of, reach_over_seeds

Scale = Literal["identity", "atanh", "log"]
Array = NDArray[np.float64]


def nested(
    estimates: Sequence[Estimate], scale: Scale, shared: bool, possible: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Return the mean over seeds, with an interval that holds seeds and the images nested in them.

    With s^2 the variance of n seeds on the scale, the variance of the mean is ``s^2 / n``, which includes the share of
    each seed's own images; if the seeds share their images, w is added, the mean of ``(half width / 1.96)^2`` of the
    seeds' intervals on that scale. The ends are ``mean -+ t sqrt(s^2 / n + w)`` with Satterthwaite's degrees of freedom
    as in `gradprobe.statistics.ratios.reach_over_seeds`, transformed back. Where the seeds differ no more than their
    own intervals explain (``s^2 <= w``), the interval is `gradprobe.statistics.ratios.mean_of` those.

    Args:
        estimates: One for each seed; NaN where undefined. Ends that are not finite count as unknown.
        scale: ``identity``; ``atanh`` for mean cosines in [-1, 1]; ``log`` for positive numbers such as ratios.
        shared: True if all seeds have the same images.
        possible: Range of the statistic, to which an interval is cut; the other scales stay in theirs by themselves.

    Returns:
        Mean; its ends are NaN with fewer than 5 seeds, whose values say more than an interval, or if images are shared
        and the interval of a seed is unknown. One undefined seed makes the whole undefined: the mean of the others
        would leave out the noisiest. A logarithm needs numbers above 0, unless all are 0: then the mean is.
        Coverage with 5 and 10 seeds: 0.93 to 0.97; 0.97 to 0.997 where seeds hardly differ or C is 0, since the seeds'
        own intervals are too wide there (docs/statistics.md).

    Example:
        >>> seeds = [Estimate(c, c - 0.05, c + 0.04) for c in (0.91, 0.85, 0.88, 0.93, 0.8)]
        >>> mean = nested(seeds, "atanh", shared=False)
        >>> round(mean.low, 3), round(mean.value, 3), round(mean.high, 3)
        (0.804, 0.882, 0.93)
    """
    values, lows, highs = np.array([(e.value, e.low, e.high) for e in estimates], np.float64).T
    if scale == "log" and not values.any():
        return Estimate(0.0, np.nan, np.nan)
    if not np.isfinite(values).all() or (scale == "log" and not (values > 0).all()):
        return Estimate(np.nan, np.nan, np.nan)
    z = _to(scale, values)
    mean = _back(scale, float(z.mean())) if np.ptp(values) else float(values[0])
    if len(values) < FEWEST_SEEDS:
        return Estimate(mean, np.nan, np.nan)
    low, high = _ends(z, _to(scale, lows), _to(scale, highs), shared)
    low, high = (float(np.clip(_back(scale, end), *possible)) for end in (low, high))
    return Estimate(mean, min(low, mean), max(high, mean))


def _ends(z: Array, lows: Array, highs: Array, shared: bool) -> tuple[float, float]:
    """Return the ends of the interval on the scale."""
    within = float(np.mean(((highs - lows) / 2 / ndtri((1 + LEVEL) / 2)) ** 2))
    between, known = float(np.var(z, ddof=1)), np.isfinite(within)
    if (shared and not known) or (not known and not between):
        return np.nan, np.nan
    if known and between <= within:
        explained = mean_of([Estimate(*each) for each in zip(z, lows, highs, strict=True)], shared)
        return explained.low, explained.high
    reach = reach_over_seeds(between, within, len(z), shared) if between else 0.0
    return float(z.mean() - reach), float(z.mean() + reach)


def _to(scale: Scale, x: Array) -> Array:
    """Return numbers on the scale; of what is not on it, NaN or an infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if scale == "atanh":
            return np.arctanh(np.clip(x, ROUNDING - 1, 1 - ROUNDING))
        return np.log(x) if scale == "log" else x


def _back(scale: Scale, z: float) -> float:
    """Return a number from the scale."""
    return float(np.tanh(z) if scale == "atanh" else np.exp(z) if scale == "log" else z)

"""Scores that are a function of sums over samples, and their retention, each with its interval (no torch).

The score of a benchmark is a share of right answers, an F1 score, or a sum over categories. Each is a function of the
sums of a few numbers over units: samples, or groups of samples that are scored together. Two models answer the same
units, so that their scores are paired. Plain shares have the intervals of `gradprobe.statistics.ratios`; all others
have delete-one jackknifes over units, on the log scale for a retention.
"""

from collections.abc import Callable

import numpy as np

from gradprobe.errors import UsageError
from gradprobe.statistics.estimates import ROUNDING, Array, Estimate, Jackknifed
from gradprobe.statistics.proportions import wilson
from gradprobe.statistics.ratios import Paired, paired_ratio

Formula = Callable[[Array], Array]  # sums (..., V) -> scores (...)


def share(sums: Array) -> Array:
    """Return the mean of sums ``(total, count)``.

    Example:
        >>> float(share(np.array([3.0, 4.0])))
        0.75
    """
    return _over(sums[..., 0], sums[..., 1])


def f1(sums: Array) -> Array:
    """Return the F1 score of numbers of true positives, false positives and false negatives.

    Example:
        >>> float(f1(np.array([6.0, 2.0, 2.0])))
        0.75
    """
    return _over(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def category_sum(sums: Array) -> Array:
    """Return the sum over categories of the mean of each, of sums ``(total, count, total, count, ...)``.

    Example:
        >>> float(category_sum(np.array([300.0, 2.0, 50.0, 1.0])))
        200.0
    """
    return _over(sums[..., 0::2], sums[..., 1::2]).sum(-1)


def score(parts: Array, formula: Formula) -> Estimate:
    """Return a score with its interval over units.

    Where all units are alike the jackknife has no width. Then it is Wilson's, of the units that enter, for a share or
    F1 of 0 or 1; any other such score has no interval.

    Args:
        parts: Numbers of each unit, ``(U, V)``.
        formula: Score of their sums.

    Example:
        >>> estimate = score(np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), share)
        >>> round(estimate.low, 2), estimate.value, round(estimate.high, 2)
        (0.3, 0.75, 0.95)
    """
    if _is_plain(parts, formula):
        return wilson(int(parts[:, 0].sum()), len(parts))
    estimate = _jackknifed(parts, formula).estimate()
    if estimate.half <= ROUNDING * abs(estimate.value):
        return _alike(parts, formula, estimate.value)
    most = np.inf if formula is category_sum else 1.0
    return Estimate(estimate.value, float(np.clip(estimate.low, 0, most)), float(np.clip(estimate.high, 0, most)))


def retained(ours: Array, theirs: Array, formula: Formula) -> Estimate:
    """Return the ratio of two scores on the same units, ours over theirs, with its interval.

    Of plain shares it is Bonett and Price's; else ``exp(log r -+ t se)`` with the jackknife's standard error of the
    log ratio. Where no unit differs the jackknife has no width; then it is Bonett and Price's, of the units that have a
    score above 0 on their own.

    Args:
        ours: Numbers of each unit, ``(U, V)``.
        theirs: Those of the model that is compared with.
        formula: Score of their sums.

    Returns:
        Ratio; NaN if their score is 0.

    Raises:
        UsageError: The units are not the same number.

    Example:
        >>> all_right = np.array([[1.0, 1.0]] * 40)
        >>> ratio = retained(all_right * np.array([[0.3, 1.0]] * 40), all_right, share)
        >>> round(ratio.value, 3)
        0.3
    """
    if ours.shape != theirs.shape:
        raise UsageError(f"{len(ours)} units cannot be paired with {len(theirs)}; evaluate both on the same samples")
    if _is_plain(ours, formula) and _is_plain(theirs, formula):
        a, b = ours[:, 0] > 0, theirs[:, 0] > 0
        return paired_ratio(Paired(int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())))
    mine, other = _jackknifed(ours, formula), _jackknifed(theirs, formula)
    if not other.value > 0:
        return Estimate(np.nan, np.nan, np.nan)
    if np.array_equal(ours, theirs):
        return paired_ratio(Paired(int((formula(theirs) > 0).sum()), 0, 0))
    ratio = mine.value / other.value
    if not mine.value > 0:
        return Estimate(ratio, np.nan, np.nan)
    logs = mine.map(lambda a, b: np.log(a / b), other).estimate()
    return Estimate(ratio, float(np.exp(logs.low)), float(np.exp(logs.high)))


def _jackknifed(parts: Array, formula: Formula) -> Jackknifed:
    total = parts.sum(0)
    return Jackknifed(float(formula(total)), formula(total - parts))


def _alike(parts: Array, formula: Formula, value: float) -> Estimate:
    """Return the interval of a score of units that are all alike."""
    count = len(parts) if formula is share else int(parts.any(1).sum()) or len(parts)
    if formula is category_sum or min(value, abs(1 - value)) > ROUNDING:
        return Estimate(value, np.nan, np.nan)
    return wilson(count * round(value), count)


def _is_plain(parts: Array, formula: Formula) -> bool:
    """Return True if a score is the share of units that are right."""
    return formula is share and bool((parts[:, 1] == 1).all() and np.isin(parts[:, 0], (0.0, 1.0)).all())


def _over(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator != 0)

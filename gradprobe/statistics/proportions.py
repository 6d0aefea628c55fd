"""Proportions, paired differences and tests of their equivalence, from counts (numpy and scipy; no torch).

Two operators see the same images, so only those that one gets right and the other wrong matter: ``gained`` of n are
right with ours alone, ``lost`` with the baseline alone, and the difference is ``(gained - lost) / n``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from gradprobe.errors import UsageError
from gradprobe.statistics.estimates import Estimate

LEVEL, POWER = 0.95, 0.8
TOO_MANY = 1e9  # images; a question that needs more counts as never decided
FEWEST = 10  # images that differ; with fewer the shares are too uncertain to say how many images would decide
REACH = 100  # times the images at hand; a larger number cannot be predicted from them


class Pairs(NamedTuple):
    """Counts of two operators on n images: right with ours alone, right with the other alone, all."""

    gained: int
    lost: int
    n: int


def wilson(right: int, n: int, level: float = LEVEL) -> Estimate:
    """Return a proportion with Wilson's score interval: all p with ``|x - n p| <= z sqrt(n p (1 - p))``.

    Args:
        right: Count x.
        n: Total, at least 1.
        level: Level of the interval.

    Source: Wilson 1927.

    Example:
        >>> share = wilson(0, 10)
        >>> share.value, share.low, round(share.high, 3)
        (0.0, 0.0, 0.278)
    """
    z2 = ndtri((1 + level) / 2) ** 2
    p = right / n
    centre, half = (p + z2 / (2 * n)) / (1 + z2 / n), sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if right == 0 else centre - half
    return Estimate(p, float(low), float(1.0 if right == n else centre + half))


def least_lost(pairs: tuple[float, float, float], difference: float) -> float:
    """Return the maximum-likelihood chance q of a lost image if that of a gained one is ``q + difference``.

    With d the difference, ``w = 2 n d - (gained + lost) - (gained - lost) d`` and ``v = -lost d (1 - d)``, it is the
    larger root of a quadratic: ``q = (sqrt(w^2 - 8 n v) - w) / (4 n)``.

    Args:
        pairs: Numbers gained, lost and n; or shares, with n = 1.
        difference: Difference in [-1, 1].

    Source: Tango 1998, section 3.

    Example:
        >>> least_lost((30, 10, 100), 0.2)
        0.1
    """
    gained, lost, n = pairs
    w = 2 * n * difference - (gained + lost) - (gained - lost) * difference
    v = -lost * difference * (1 - difference)
    return (sqrt(max(w * w - 8 * n * v, 0)) - w) / (4 * n)


def score(pairs: Pairs, difference: float) -> float:
    """Return the distance of the observed from a supposed difference in standard errors; N(0, 1) if that is true.

    ``(gained - lost - n difference) / sqrt(n (2 q + difference (1 - difference)))`` with q of `least_lost`.

    Source: Tango 1998.

    Example:
        >>> score(Pairs(30, 10, 100), 0.0) == (30 - 10) / sqrt(30 + 10)
        True
    """
    gained, lost, n = pairs
    off = gained - lost - n * difference
    variance = n * _variance(pairs, difference)
    return off / sqrt(variance) if variance > 0 else float(np.sign(off)) * inf if off else 0.0


def tango(pairs: Pairs, level: float = LEVEL) -> Estimate:
    """Return the paired difference of two proportions with Tango's interval: all differences with ``|score| <= z``.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17.

    Example:
        >>> gap = tango(Pairs(14, 6, 100))
        >>> round(gap.value, 2), round(gap.low, 4), round(gap.high, 4)
        (0.08, -0.0083, 0.1727)
    """
    from scipy.optimize import bisect

    z = float(ndtri((1 + level) / 2))
    value = (pairs.gained - pairs.lost) / pairs.n
    low = -1.0 if pairs.lost == pairs.n else bisect(lambda d: score(pairs, d) - z, -1, value, xtol=1e-12)
    high = 1.0 if pairs.gained == pairs.n else bisect(lambda d: score(pairs, d) + z, value, 1, xtol=1e-12)
    return Estimate(value, float(low), float(high))


def mcnemar(pairs: Pairs) -> float:
    """Return the p-value of McNemar's exact test, two-sided: gained and lost are equally likely.

    Source: McNemar 1947, with binomial probabilities.

    Example:
        >>> mcnemar(Pairs(0, 5, 100)), mcnemar(Pairs(3, 3, 100)), mcnemar(Pairs(0, 0, 100))
        (0.0625, 1.0, 1.0)
    """
    from scipy.stats import binom

    gained, lost, _ = pairs
    return min(1.0, 2 * float(binom.cdf(min(gained, lost), gained + lost, 0.5)))


def tost(pairs: Pairs, margin: float) -> float:
    """Return the larger p-value of two one-sided tests: the difference is ``margin`` or more, either way.

    Below 0.05 the two operators are equivalent within the margin, and Tango's 90 % interval lies inside it.

    Source: Schuirmann 1987 (two one-sided tests), Tango 1998 (the score of each).

    Example:
        >>> tost(Pairs(5, 5, 1000), 0.01) < 0.05, tost(Pairs(50, 50, 1000), 0.01) < 0.05
        (True, False)
    """
    return float(max(ndtr(-score(pairs, -margin)), ndtr(score(pairs, margin))))


def images_for_equivalence(pairs: Pairs, margin: float, power: float = POWER) -> float:
    """Return the number of images for which the two one-sided tests succeed with this power, from the observed shares.

    Infinite if the observed difference is not inside the margin.
    """
    gained, lost = pairs.gained / pairs.n, pairs.lost / pairs.n
    difference, shares = gained - lost, (gained, lost, 1.0)
    if not abs(difference) < margin:
        return inf
    z, own = float(ndtri(LEVEL)), sqrt(gained + lost - difference**2)
    below, above = (sqrt(_variance(shares, d)) for d in (-margin, margin))

    def reached(n: float) -> float:
        up, down = (margin - difference) * sqrt(n) - z * above, (margin + difference) * sqrt(n) - z * below
        if own == 0:
            return float(min(up, down) > 0) - power
        return float(ndtr(up / own) - ndtr(-down / own)) - power

    return _first(reached)


def images_for_difference(pairs: Pairs, power: float = POWER) -> float:
    """Return the number of images for which the 95 % interval excludes 0 with this power, from the observed shares.

    Infinite if the observed difference is 0.
    """
    gained, lost = pairs.gained / pairs.n, pairs.lost / pairs.n
    difference = abs(gained - lost)
    if difference == 0:
        return inf
    own = sqrt(gained + lost - difference**2)
    return _capped((ndtri((1 + LEVEL) / 2) * sqrt(gained + lost) + ndtri(power) * own) ** 2 / difference**2)


@dataclass(frozen=True)
class PairedProportions:
    """Accuracy of two operators on the same images: tests of a gap, and of one below a margin.

    Attributes:
        difference: Difference of the shares of right answers, ours less the baseline's, with Tango's 95 % interval.
        mcnemar: Exact p-value of no difference; below 0.05 there is a gap. It decides, not the interval, which may just
            reach over 0.
        tost: p-value of a difference of the margin or more.
        verdict: Verdict. ``equivalent``: the gap is below the margin, and none is significant; ``small gap``: a
            significant one, below the margin; ``different``: a significant one, not shown to be below the margin;
            ``undecided``: neither.
        needed: Number of images that would show a gap below the margin, where it was not shown; for ``undecided``, that
            would decide either way. It is for 80 % power at the observed shares, and more than there are; infinite if
            that is never, more than 100 times the images at hand, or if fewer than 10 images differ, so that the
            shares are uncertain.
    """

    difference: Estimate
    mcnemar: float
    tost: float
    verdict: str
    needed: float | None


def compare_proportions(pairs: Pairs, margin: float) -> PairedProportions:
    """Compare two operators on the same images: two one-sided tests at 5 %, and McNemar's exact test at 5 %.

    Raises:
        UsageError: The margin is not in (0, 1).

    Example:
        >>> [compare_proportions(pairs, 0.01).verdict for pairs in (Pairs(5, 5, 2000), Pairs(90, 10, 1000))]
        ['equivalent', 'different']
    """
    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin:g} is not possible; give a share of the images such as 0.01")
    unlikely, same = mcnemar(pairs), tost(pairs, margin)
    gap, inside = unlikely < 1 - LEVEL, same < 1 - LEVEL
    verdict = ("small gap" if gap else "equivalent") if inside else ("different" if gap else "undecided")
    needed = None if inside else images_for_equivalence(pairs, margin)
    if verdict == "undecided":
        needed = min(images_for_equivalence(pairs, margin), images_for_difference(pairs))
    needed = None if needed is None else _predictable(needed, pairs)
    return PairedProportions(tango(pairs), unlikely, same, verdict, needed)


def accuracy_row(
    right: NDArray[np.bool_], baseline: NDArray[np.bool_] | None, margin: float
) -> dict[str, float | int | str | None]:
    """Return an accuracy with its interval and, for a baseline, `compare_proportions`, by suffixes of ``top1``.

    Args:
        right: Mask of the images that are right, ``(I,)``.
        baseline: Mask of the baseline, if there is one.
        margin: Gap that counts as none.
    """
    own = wilson(int(right.sum()), len(right))
    row: dict[str, Any] = {"": own.value, "_low": own.low, "_high": own.high}
    names = (
        "difference", "difference_low", "difference_high", "gained", "lost", "mcnemar", "tost", "verdict", "needed"
    )  # fmt: skip
    if baseline is None:
        return row | {f"_{name}": None for name in names}
    pairs = Pairs(int((right & ~baseline).sum()), int((baseline & ~right).sum()), len(right))
    versus = compare_proportions(pairs, margin)
    gap, needed = versus.difference, versus.needed
    values = (gap.value, gap.low, gap.high, pairs.gained, pairs.lost, versus.mcnemar, versus.tost, versus.verdict)
    never = needed is None or needed == inf
    return row | {f"_{n}": v for n, v in zip(names, (*values, None if never else needed), strict=True)}


def _variance(pairs: tuple[float, float, float], difference: float) -> float:
    """Return the variance of one image's difference if the true one is this: ``2 q + difference (1 - difference)``."""
    return 2 * least_lost(pairs, difference) + difference * (1 - difference)


def _first(reached: Callable[[float], float]) -> float:
    """Return the smallest integer at which a growing function is 0 or more; infinite beyond `TOO_MANY`."""
    low, high = 0, 1
    while reached(high) < 0:
        low, high = high, 2 * high
        if low > TOO_MANY:
            return inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reached(middle) < 0 else (low, middle)
    return _capped(high)


def _predictable(needed: float, pairs: Pairs) -> float:
    """Return a number of images above the present one, infinite if it is too far from it to be predicted."""
    if pairs.gained + pairs.lost < FEWEST or needed > REACH * pairs.n:
        return inf
    return max(needed, float(pairs.n + 1))


def _capped(images: float) -> float:
    return float(ceil(images)) if images <= TOO_MANY else inf

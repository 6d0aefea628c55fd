"""Counts -> proportions, paired differences and a verdict on whether they are the same (numpy and scipy; no torch).

Two operators are judged on the same images, so only the images that one gets right and the other wrong speak:
``gained`` of n are right with ours alone, ``lost`` with the baseline alone, the difference is ``(gained - lost) / n``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import bisect
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from gradprobe.errors import UsageError
from gradprobe.statistics.estimates import Estimate

LEVEL, POWER = 0.95, 0.8
TOO_MANY = 1e9  # images beyond which a question counts as never decided
FEWEST = 10  # images that differ, below which the shares are too little known to say how many would decide
REACH = 100  # times the images at hand: farther than that nobody can tell from them


class Pairs(NamedTuple):
    """How two operators fare on n images: right with ours alone, right with the other alone, images."""

    gained: int
    lost: int
    n: int


def wilson(right: int, n: int, level: float = LEVEL) -> Estimate:
    """A proportion with Wilson's score interval: all p with ``|x - n p| <= z sqrt(n p (1 - p))``.

    Args:
        right: x, how many of the n.
        n: how many there are, at least 1.
        level: of the interval.

    Source: Wilson 1927.

    Example:
        >>> found = wilson(0, 10)
        >>> found.value, found.low, round(found.high, 3)
        (0.0, 0.0, 0.278)
    """
    z2 = ndtri((1 + level) / 2) ** 2
    p = right / n
    centre, half = (p + z2 / (2 * n)) / (1 + z2 / n), sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if right == 0 else centre - half
    return Estimate(p, float(low), float(1.0 if right == n else centre + half))


def least_lost(pairs: tuple[float, float, float], difference: float) -> float:
    """The likeliest chance q of a lost image if the chance of a gained one is ``q + difference``: the constrained MLE.

    With d the difference, ``w = 2 n d - (gained + lost) - (gained - lost) d`` and ``v = -lost d (1 - d)``, it is the
    larger root of a quadratic, ``q = (sqrt(w^2 - 8 n v) - w) / (4 n)``.

    Args:
        pairs: gained, lost and n; shares with n = 1 will do.
        difference: in [-1, 1].

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
    """How many standard errors the observed difference lies above a supposed one; about N(0, 1) if that is true.

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
    """The paired difference of two proportions with Tango's score interval: all differences with ``|score| <= z``.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17.

    Example:
        >>> found = tango(Pairs(14, 6, 100))
        >>> round(found.value, 2), round(found.low, 4), round(found.high, 4)
        (0.08, -0.0083, 0.1727)
    """
    z = float(ndtri((1 + level) / 2))
    value = (pairs.gained - pairs.lost) / pairs.n
    low = -1.0 if pairs.lost == pairs.n else bisect(lambda d: score(pairs, d) - z, -1, value, xtol=1e-12)
    high = 1.0 if pairs.gained == pairs.n else bisect(lambda d: score(pairs, d) + z, value, 1, xtol=1e-12)
    return Estimate(value, float(low), float(high))


def mcnemar(pairs: Pairs) -> float:
    """Probability of a split as uneven as gained and lost if either were as likely: McNemar's exact test, two-sided.

    Source: McNemar 1947, with binomial probabilities.

    Example:
        >>> mcnemar(Pairs(0, 5, 100)), mcnemar(Pairs(3, 3, 100)), mcnemar(Pairs(0, 0, 100))
        (0.0625, 1.0, 1.0)
    """
    gained, lost, _ = pairs
    return min(1.0, 2 * float(binom.cdf(min(gained, lost), gained + lost, 0.5)))


def tost(pairs: Pairs, margin: float) -> float:
    """Probability of a difference as small as this one if it were ``margin`` or more: two one-sided tests, the larger.

    Below 0.05 the two are equivalent within the margin, and Tango's 90 % interval lies inside it.

    Source: Schuirmann 1987 (two one-sided tests), Tango 1998 (the score of each).

    Example:
        >>> tost(Pairs(5, 5, 1000), 0.01) < 0.05, tost(Pairs(50, 50, 1000), 0.01) < 0.05
        (True, False)
    """
    return float(max(ndtr(-score(pairs, -margin)), ndtr(score(pairs, margin))))


def images_for_equivalence(pairs: Pairs, margin: float, power: float = POWER) -> float:
    """How many images the two one-sided tests take to succeed with this power, if the chances are the observed shares.

    Infinite where the observed difference is not inside the margin.
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
    """How many images the 95 % interval takes to leave 0 with this power, if the chances are the observed shares.

    Infinite where no difference is seen.
    """
    gained, lost = pairs.gained / pairs.n, pairs.lost / pairs.n
    difference = abs(gained - lost)
    if difference == 0:
        return inf
    own = sqrt(gained + lost - difference**2)
    return _capped((ndtri((1 + LEVEL) / 2) * sqrt(gained + lost) + ndtri(power) * own) ** 2 / difference**2)


@dataclass(frozen=True)
class Comparison:
    """Two operators on the same images: is there a gap, and is it smaller than the margin?

    Attributes:
        difference: of the shares of right answers, ours less the baseline's, with Tango's 95 % interval.
        mcnemar: p of no difference, exact; below 0.05 a gap is seen. It decides, not the interval, which may end on the
            other side of 0 by a hair.
        tost: p of a difference of the margin or more.
        verdict: ``equivalent``: the gap is below the margin, and none is seen; ``small gap``: one is seen, and it is
            below the margin; ``different``: one is seen, and not shown to be below the margin; ``undecided``: neither.
        needed: images that would show a gap below the margin, where it was not shown; for ``undecided``, images that
            would decide either way. With 80 % power, if the chances are the observed shares, and more than there are;
            infinite where that is never, more than 100 times the images at hand, or where fewer than 10 images differ
            so that the shares are not known.
    """

    difference: Estimate
    mcnemar: float
    tost: float
    verdict: str
    needed: float | None


def compare(pairs: Pairs, margin: float) -> Comparison:
    """The verdict on a paired difference: two one-sided tests at 5 %, and McNemar's exact test at 5 %.

    Raises:
        UsageError: the margin is not in (0, 1).

    Example:
        >>> compare(Pairs(5, 5, 2000), 0.01).verdict, compare(Pairs(90, 10, 1000), 0.01).verdict
        ('equivalent', 'different')
    """
    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin:g} is not possible; give a share of the images such as 0.01")
    unlikely, same = mcnemar(pairs), tost(pairs, margin)
    gap, inside = unlikely < 1 - LEVEL, same < 1 - LEVEL
    verdict = ("small gap" if gap else "equivalent") if inside else ("different" if gap else "undecided")
    needed = None if inside else images_for_equivalence(pairs, margin)
    if verdict == "undecided":
        needed = min(images_for_equivalence(pairs, margin), images_for_difference(pairs))
    return Comparison(tango(pairs), unlikely, same, verdict, None if needed is None else _honest(needed, pairs))


def accuracy_row(
    right: NDArray[np.bool_], baseline: NDArray[np.bool_] | None, margin: float
) -> dict[str, float | int | str | None]:
    """An accuracy with its interval and, with a baseline, all of `compare`, named by what follows ``top1`` or ``top5``.

    Args:
        right: which images are right, ``(I,)``.
        baseline: the same of the baseline; None for none.
        margin: a gap below this one counts as none.
    """
    own = wilson(int(right.sum()), len(right))
    row: dict[str, Any] = {"": own.value, "_low": own.low, "_high": own.high}
    names = (
        "difference", "difference_low", "difference_high", "gained", "lost", "mcnemar", "tost", "verdict", "needed"
    )  # fmt: skip
    if baseline is None:
        return row | {f"_{name}": None for name in names}
    pairs = Pairs(int((right & ~baseline).sum()), int((baseline & ~right).sum()), len(right))
    found = compare(pairs, margin)
    gap, needed = found.difference, found.needed
    values = (gap.value, gap.low, gap.high, pairs.gained, pairs.lost, found.mcnemar, found.tost, found.verdict)
    never = needed is None or needed == inf
    return row | {f"_{n}": v for n, v in zip(names, (*values, None if never else needed), strict=True)}


def _variance(pairs: tuple[float, float, float], difference: float) -> float:
    """Variance of one image's difference if the true one is this: ``2 q + difference (1 - difference)``."""
    return 2 * least_lost(pairs, difference) + difference * (1 - difference)


def _first(reached: Callable[[float], float]) -> float:
    """The smallest whole number at which a growing function is 0 or more; infinite beyond `TOO_MANY`."""
    low, high = 0, 1
    while reached(high) < 0:
        low, high = high, 2 * high
        if low > TOO_MANY:
            return inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reached(middle) < 0 else (low, middle)
    return _capped(high)


def _honest(needed: float, pairs: Pairs) -> float:
    """A number of images that the ones at hand can bear out: more than they are, and not too far from them."""
    if pairs.gained + pairs.lost < FEWEST or needed > REACH * pairs.n:
        return inf
    return max(needed, float(pairs.n + 1))


def _capped(images: float) -> float:
    return float(ceil(images)) if images <= TOO_MANY else inf

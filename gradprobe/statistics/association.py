"""Association of measures with an outcome over operators that share parts (numpy and scipy; no torch).

Operators are not an independent sample: many share a throttle, some a relaxation, and all share the images and the
scorer of a seed. The unit is an operator under one seed. Intervals come from a bootstrap that draws throttles, then
operators within each, then seeds, and adds the noise of the images; the test permutes whole throttles. With seven
throttles these intervals are wide, and should be. Coverage: docs/statistics.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from gradprobe.statistics.estimates import Estimate

Array = NDArray[np.float64]
REPLICATES, MOST_PERMUTATIONS = 2000, 5040  # 7 throttles have 5040 orders


@dataclass(frozen=True)
class Units:
    """Operators under seeds, one row each; all arrays are ``(n,)``.

    Attributes:
        operator: Names; each is one relaxation of its throttle.
        throttle: Groups that are drawn and permuted as a whole.
        seed: Seed of the training.
        outcome: Outcome to be predicted, such as retention.
        outcome_error: Standard error of the outcome over images.
        measures: Measures by name; NaN where a unit has none (no gradient).
        errors: Standard error of each measure over images.
    """

    operator: Sequence[str]
    throttle: Sequence[str]
    seed: Sequence[int]
    outcome: Array
    outcome_error: Array
    measures: Mapping[str, Array]
    errors: Mapping[str, Array] = field(default_factory=dict)

    def known(self, *names: str) -> NDArray[np.intp]:
        """Return the units that have all of these measures."""
        return np.flatnonzero(np.all([np.isfinite(self.measures[name]) for name in names], 0))


@dataclass(frozen=True)
class Association:
    """Association of a measure with the outcome.

    Attributes:
        rho: Spearman's rank correlation over units, with the bootstrap's 95 % interval.
        tau: Kendall's tau-b, where outcomes within the noise of seeds are ties.
        p: Share of the orders of whole throttles with a correlation as far from 0.
        without: Correlation rho without each throttle, by its name.
        units: Number of units with the measure.
        operators: Number of their operators.
    """

    rho: Estimate
    tau: float
    p: float
    without: Mapping[str, float]
    units: int
    operators: int


def ranks(values: ArrayLike) -> Array:
    """Return ranks from 1 on; ties share their mean.

    Example:
        >>> ranks([3.0, 1.0, 3.0, 2.0])
        array([3.5, 1. , 3.5, 2. ])
    """
    values = np.asarray(values, np.float64)
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return the rank correlation, ties sharing their mean rank; NaN without values or if one of the two does not vary.

    Example:
        >>> round(spearman([1.0, 2, 3, 4], [1.0, 3, 2, 4]), 3)
        0.8
    """
    if not np.size(x):  # of a replicate whose seeds none of its operators has
        return float("nan")
    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def kendall(x: ArrayLike, y: ArrayLike, noise: float = 0.0) -> float:
    """Return Kendall's tau-b, ``(C - D) / sqrt((P - T_x)(P - T_y))`` over all P pairs; NaN if one does not vary.

    Args:
        x: Measure.
        y: Outcome.
        noise: Largest difference of two outcomes that are tied.

    Source: Kendall 1945.

    Example:
        >>> kendall([1.0, 2, 3], [0.1, 0.2, 0.9]), round(kendall([1.0, 2, 3], [0.2, 0.1, 0.9], noise=0.15), 3)
        (1.0, 0.816)
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    up = np.triu_indices(len(x), 1)
    dx, dy = (np.subtract.outer(each, each)[up] for each in (x, y))
    sx, sy = np.sign(dx), np.where(np.abs(dy) <= noise, 0, np.sign(dy))
    scale = np.sqrt(np.abs(sx).sum() * np.abs(sy).sum())
    return float(sx @ sy / scale) if scale > 0 else float("nan")


def seed_noise(units: Units) -> float:
    """Return the standard deviation of the difference of two trainings of one operator; with one seed, of its images.

    Its square is twice the variance between the seeds of an operator, pooled over operators.
    """
    spread: list[float] = []
    for op in dict.fromkeys(units.operator):
        own = units.outcome[[other == op for other in units.operator]]
        spread += [float(own.var(ddof=1))] * (len(own) - 1) if len(own) > 1 else []
    pooled = float(np.mean(spread)) if spread else float(np.mean(units.outcome_error**2))
    return float(np.sqrt(2 * pooled))


def associations(units: Units, seed: int = 0, replicates: int = REPLICATES) -> dict[str, Association]:
    """Return the association of each measure with the outcome, on all units that have it.

    Args:
        units: Operators under seeds.
        seed: Seed of the bootstrap and the permutations.
        replicates: Number of replicates of the bootstrap.
    """
    noise = seed_noise(units)
    alike: dict[bytes, list[str]] = {}  # measures of the same units share their draws
    for name in units.measures:
        alike.setdefault(units.known(name).tobytes(), []).append(name)
    drawn = {name: d for names in alike.values() for name, d in bootstrap(units, names, seed, replicates).items()}
    results = {}
    for name in units.measures:
        rows = units.known(name)
        x, y = units.measures[name][rows], units.outcome[rows]
        throttle = np.array([units.throttle[i] for i in rows], object)
        results[name] = Association(
            rho=Estimate(spearman(x, y), *_ends(drawn[name])),
            tau=kendall(x, y, noise),
            p=throttle_permutations(x, y, list(throttle), seed),
            without={t: spearman(x[throttle != t], y[throttle != t]) for t in dict.fromkeys(throttle)},
            units=len(rows),
            operators=len({units.operator[i] for i in rows}),
        )
    return results


def difference(units: Units, one: str, other: str, seed: int = 0, replicates: int = REPLICATES) -> Estimate:
    """Return the difference of two measures' correlations with the outcome, on the units that have both.

    Both correlations come from the same draws, so that common noise cancels.
    """
    rows = units.known(one, other)
    a, b = (spearman(units.measures[name][rows], units.outcome[rows]) for name in (one, other))
    drawn = bootstrap(units, (one, other), seed, replicates)
    return Estimate(a - b, *_ends(drawn[one] - drawn[other]))


def bootstrap(units: Units, names: Sequence[str], seed: int = 0, replicates: int = REPLICATES) -> dict[str, Array]:
    """Draw rank correlations by the hierarchical bootstrap, ``(replicates,)`` each, with common draws for all measures.

    A replicate draws throttles with replacement, within each of them its operators, for all of them the same seeds,
    and adds Gaussian noise of the images' standard errors to outcome and measures.

    Args:
        units: Operators under seeds.
        names: Measures; units that lack one of them are left out.
        seed: Seed of the random numbers.
        replicates: Number of replicates.
    """
    rng = np.random.default_rng(seed)
    rows = units.known(*names)
    seeds = sorted({units.seed[i] for i in rows})
    tree: dict[str, dict[str, NDArray[np.intp]]] = {}  # units of each seed, -1 where there is none
    for i in rows:
        own = tree.setdefault(units.throttle[i], {}).setdefault(units.operator[i], np.full(len(seeds), -1))
        own[seeds.index(units.seed[i])] = i
    tables = [np.array(list(operators.values())) for operators in tree.values()]
    errors = {name: np.nan_to_num(units.errors.get(name, np.zeros(len(units.outcome)))) for name in names}
    correlations = np.full((len(names), replicates), np.nan)
    for replicate in range(replicates if tables else 0):
        chosen = rng.integers(len(seeds), size=len(seeds))
        groups = [tables[t] for t in rng.integers(len(tables), size=len(tables))]
        parts = [group[rng.integers(len(group), size=len(group))] for group in groups]
        drawn = np.concatenate([part[:, chosen].ravel() for part in parts])
        drawn = drawn[drawn >= 0]
        y = units.outcome[drawn] + units.outcome_error[drawn] * rng.normal(size=len(drawn))
        noise = rng.normal(size=(len(names), len(drawn)))
        for n, name in enumerate(names):
            correlations[n, replicate] = spearman(units.measures[name][drawn] + errors[name][drawn] * noise[n], y)
    return dict(zip(names, correlations, strict=True))


def throttle_permutations(x: Array, y: Array, throttle: Sequence[str], seed: int = 0) -> float:
    """Return the two-sided p-value of no association, by giving the outcomes of whole throttles to other throttles.

    The outcomes of a throttle keep their order and are stretched to the number of units of the throttle that gets them,
    each as often as the others but for one; with throttles of one size this permutes blocks. (If blocks of several
    sizes were put end to end, they would no longer lie on throttles, and p would be below 0.05 in up to 17 % of cases
    without association.) All orders of the throttles if they are at most 5040 (seven throttles), else 5040 random ones;
    the observed order is among them, so that p is never 0. NaN if nothing varies or there is only one throttle.
    """
    groups = list(dict.fromkeys(throttle))
    blocks = [np.flatnonzero([t == g for t in throttle]) for g in groups]
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(groups) < 2 or not np.ptp(x) or not np.ptp(y):
        return float("nan")
    if factorial(len(groups)) <= MOST_PERMUTATIONS:
        orders = list(permutations(range(len(groups))))
    else:
        rng = np.random.default_rng(seed)
        orders = [tuple(range(len(groups)))]
        orders += [tuple(rng.permutation(len(groups))) for _ in range(MOST_PERMUTATIONS - 1)]
    sizes = [len(block) for block in blocks]
    given = [[_stretched(block, size) for size in sizes] for block in blocks]
    moved = np.array([np.concatenate([given[i][place] for place, i in enumerate(order)]) for order in orders])
    a, b = (rankdata(each, axis=-1) - (len(x) + 1) / 2 for each in (x[np.concatenate(blocks)], y[moved]))
    scale = np.sqrt((b * b).sum(1))
    strengths = np.abs(b @ a) / np.where(scale > 0, scale, 1)  # outcomes that do not vary are not associated
    return float(np.mean(strengths >= strengths[0] * (1 - 1e-9)))


def _stretched(block: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return units in their order, repeated or thinned to a number."""
    return block[((np.arange(size) + 0.5) * len(block) / size).astype(int)]


def _ends(drawn: Array, level: float = 0.95) -> tuple[float, float]:
    """Return percentiles of the replicates that are defined; NaN if fewer than nine in ten are."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 0.9 * len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

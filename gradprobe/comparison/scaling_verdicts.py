"""Two questions to Figure A1: is the fall over the pruning rate smooth, and do larger models keep more (no torch)?

The frozen models are given: intervals are over scorers (seeds) and test images, not over trainings of the models. With
one set of weights a size, "larger keeps more" is about these models, not about size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from gradprobe.comparison.scaling import AVERAGE, Point, Scaling
from gradprobe.plotting.columns import number, seeds
from gradprobe.statistics.contrasts import contrast_over_seeds
from gradprobe.statistics.estimates import ROUNDING, Estimate
from gradprobe.statistics.ratios import FEWEST_SEEDS

LEAST, STEEP = 0.1, 5.0  # of an abrupt step: loss of retention, and steepness; chosen before any of it was measured
RULE = (
    f"abrupt: a step between neighbouring rates that loses at least {100 * LEAST:.0f} points and falls at least "
    f"{STEEP:.0f} times as fast as the rest of the curve; smooth: no such step"
)


@dataclass(frozen=True)
class Step:
    """Fall of retention between two neighbouring pruning rates ``r < r'`` of m, where ``R(0) = 1`` is the first point.

    Attributes:
        rates: r and r'.
        drop: ``d = R(r) - R(r')``, of the same seeds and images.
        steepness: ``d / (r' - r)`` over the same of all other steps together, ``(1 - R(r_m) - d) / (r_m - (r' - r))``;
            infinite where those do not fall.
        excess: ``d - STEEP (r' - r) (1 - R(r_m) - d) / (r_m - (r' - r))``, above 0 if the steepness is above STEEP.
    """

    rates: tuple[float, float]
    drop: Estimate
    steepness: float
    excess: Estimate

    @property
    def slope(self) -> float:
        """Retention lost per point of rate."""
        return self.drop.value / (self.rates[1] - self.rates[0])

    @property
    def abrupt(self) -> bool:
        """True if both intervals lie above what `RULE` allows."""
        return self.drop.low > LEAST and self.excess.low > 0

    @property
    def gentle(self) -> bool:
        """True if one of the intervals lies within what `RULE` allows."""
        return self.drop.high <= LEAST or self.excess.high <= 0


def steps(scaling: Scaling, model: str, part: str) -> list[Step]:
    """Return the steps of a model's curve, over the seeds that all its points have; none for a single point."""
    curve = scaling.curve(model, part)
    common = _common(list(curve.values()))
    if len(curve) < 2 or not common:
        return []
    points: list[Point | None] = [None, *curve.values()]  # None: nothing pruned
    rates = [0.0, *(scaling.rate(k) for k in curve)]
    made = []
    for (r, before), (s, after) in pairwise(zip(rates, points, strict=True)):
        rest = STEEP * (s - r) / (rates[-1] - (s - r))
        drop = _combined([(1.0, before), (-1.0, after)], common)
        excess = _combined([(1 + rest, before), (-1 - rest, after), (-rest, None), (rest, points[-1])], common)
        others = (drop.value - excess.value) / STEEP  # fall of the other steps over as wide a step
        steep = drop.value / others if others > ROUNDING else np.inf if drop.value > ROUNDING else np.nan
        made.append(Step((r, s), drop, float(steep), excess))
    return made


def shape(scaling: Scaling, model: str, part: str) -> str:
    """Return ``smooth``, ``abrupt`` or ``undecided`` with the reason; see `RULE`.

    Every rate must be answered, under the same five seeds or more. Each step has its own 95 % interval: a curve is
    abrupt if one step is, smooth if all are gentle.
    """
    curve = scaling.curve(model, part)
    if not curve:
        return "no answers yet"
    if lacking := [k for k in scaling.budgets if k not in curve]:
        return f"undecided, no answer at {', '.join(f'{100 * scaling.rate(k):.0f}' for k in lacking)} %"
    if (count := len(_common(list(curve.values())))) < FEWEST_SEEDS:
        return f"undecided, {seeds(count)}"
    every = steps(scaling, model, part)
    if any(step.abrupt for step in every):
        return "abrupt"
    return "smooth" if every and all(step.gentle for step in every) else "undecided"


@dataclass(frozen=True)
class Gap:
    """Retention of a larger model less that of a smaller one at one rate, of the same seeds and images.

    Attributes:
        difference: ``R_larger(r) - R_smaller(r)``, mean over seeds; each over its own model's unpruned accuracy.
        count: Number of seeds that both have.
    """

    difference: Estimate
    count: int

    @property
    def verdict(self) -> str:
        """``more`` or ``less`` if five seeds or more exclude 0, else ``undecided``."""
        if self.count < FEWEST_SEEDS:
            return f"undecided, {seeds(self.count)}"
        return "more" if self.difference.low > 0 else "less" if self.difference.high < 0 else "undecided"


def gaps(scaling: Scaling, smaller: str, larger: str, part: str) -> dict[int, Gap]:
    """Return the gaps between two sizes by K, where both have an answer under the same seed."""
    ours, theirs = scaling.curve(larger, part), scaling.curve(smaller, part)
    found = {}
    for k in ours:
        if k in theirs and (common := _common([ours[k], theirs[k]])):
            found[k] = Gap(_combined([(1.0, ours[k]), (-1.0, theirs[k])], common), len(common))
    return found


def verdicts(scaling: Scaling) -> list[str]:
    """Return the answers in words: the shape of each model's fall, then each pair of sizes, on the average."""
    sentences = [_fall(scaling, model) for model in scaling.models]
    for smaller, larger in combinations(scaling.models, 2):
        if found := gaps(scaling, smaller, larger, AVERAGE):
            parts = [f"{100 * scaling.rate(k):.0f} %: {_points(g.difference)} {g.verdict}" for k, g in found.items()]
            sentences.append(f"{larger} less {smaller}, points at {', '.join(parts)}")
    return sentences


def _fall(scaling: Scaling, model: str) -> str:
    """Return the shape of a model's fall, its steepest step, and the kinds whose shape is another."""
    verdict, every = shape(scaling, model, AVERAGE), steps(scaling, model, AVERAGE)
    sentence = f"{model}: {verdict}"
    if every:
        step = max(every, key=lambda each: each.slope)
        times = f"{number(step.steepness, 1)} times as fast as the rest"
        steep = "where the rest does not fall" if np.isinf(step.steepness) else times if step.slope > 0 else "no fall"
        between = " to ".join(f"{100 * rate:.0f}" for rate in step.rates)
        sentence += f"; steepest from {between} %: {_points(step.drop, -1)} points, {steep}"
    others: dict[str, list[str]] = {}
    for part in scaling.parts[1:]:
        if (other := shape(scaling, model, part)) != verdict:
            others.setdefault(other, []).append(part)
    return "; ".join([sentence, *(f"{', '.join(parts)}: {other}" for other, parts in others.items())])


def _common(points: Sequence[Point]) -> list[int]:
    """Return the seeds that all points have."""
    return [seed for seed in points[0].images if all(seed in p.images for p in points)] if points else []


def _combined(weighted: Sequence[tuple[float, Point | None]], common: Sequence[int]) -> Estimate:
    """Return a weighted sum of retentions over some seeds; that of None is 1, with nothing pruned."""
    fixed = sum(weight for weight, point in weighted if point is None)
    points = [(weight, point) for weight, point in weighted if point is not None]
    of_seeds = [[(weight, point.images[seed]) for weight, point in points] for seed in common]
    pooled = contrast_over_seeds(of_seeds, points[0][1].shared)
    return Estimate(*(fixed + x for x in (pooled.value, pooled.low, pooled.high)))


def _points(estimate: Estimate, sign: int = 1) -> str:
    """Return an estimate in points with its interval."""
    value, *ends = (100 * sign * x for x in (estimate.value, estimate.low, estimate.high))
    low, high = sorted(ends)
    shown = number(value, 1) if value <= 0 or not np.isfinite(value) else f"+{number(value, 1)}"
    return shown + (f" [{number(low, 1)}, {number(high, 1)}]" if np.isfinite(high - low) else "")

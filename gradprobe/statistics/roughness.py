"""Roughness of lines of losses (numpy only).

The size of a step depends on the grid, so a single number says little: the total variation of a smooth function is the
same on every grid, that of a hard one grows as the grid gets finer. Every result therefore names its grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradprobe.errors import UsageError
from gradprobe.statistics.estimates import Estimate, Jackknifed


@dataclass(frozen=True)
class Roughness:
    """Statistics of the steps ``|L_{i+1} - L_i|`` between neighbouring points, and their grid.

    Attributes:
        mean: Mean step, the paper's stepwise variation, in units of the loss.
        median: Median step.
        largest: Largest step; on a finer grid it shrinks for a smooth function and stays at the jump for a hard one.
        total: Total variation, the sum of the steps of a line (the mean over lines).
        zero_share: Share of steps that are exactly zero; 0 for nearly all smooth functions.
        second_difference: Mean of ``|L_{i+1} - 2 L_i + L_{i-1}|``.
        step: Distance between neighbouring points.
        points: Number of points n in a line.
    """

    mean: float
    median: float
    largest: float
    total: float
    zero_share: float
    second_difference: float
    step: float
    points: int


@dataclass(frozen=True)
class TotalVariation:
    """Total variation on a grid and on every factor-th point of it, with the exponent p of ``TV ~ h^-p``."""

    fine: float
    coarse: float
    exponent: float


def roughness(losses: ArrayLike, step: float) -> Roughness:
    """Return the stepwise variation of losses at evenly spaced points; with a NaN loss all numbers are NaN.

    Args:
        losses: Losses ``(n,)`` with n >= 3, or ``(..., n)``: lines of one plane, whose steps are pooled.
        step: Distance h between neighbouring points.

    Raises:
        UsageError: There are fewer than three points, or the step is not a positive number.

    Source:
        DiffPrune, Fig. 2c, for the mean step.

    Example:
        >>> rough = roughness([0.0, 1.0, 1.0, 3.0], step=0.1)
        >>> rough.mean, rough.median, rough.largest, rough.total
        (1.0, 1.0, 2.0, 3.0)
        >>> round(rough.zero_share, 3), rough.second_difference
        (0.333, 1.5)
    """
    if not 0 < step < np.inf:
        raise UsageError(f"step={step:g} is no distance between points; give a positive number")
    lines = _lines(losses, least=3)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        change = np.diff(lines)
        sizes, second = np.abs(change), np.abs(np.diff(change))
    undefined = np.isnan(lines).any() or np.isnan(sizes).any()
    mean, median, largest, total, zero, bend = (
        np.nan if undefined else float(value)
        for value in (
            sizes.mean(),
            np.median(sizes),
            sizes.max(),
            sizes.sum(-1).mean(),
            (sizes == 0).mean(),
            second.mean(),
        )
    )
    return Roughness(mean, median, largest, total, zero, bend, float(step), lines.shape[-1])


def tv_exponent(losses_fine: ArrayLike, factor: int) -> TotalVariation:
    """Return the growth of the total variation on a finer grid, ``p = log(TV_fine / TV_coarse) / log(factor)``.

    p is 0 for a smooth function, about 1/2 for a random walk, 1 for independent noise at every point. A line whose
    coarse points are all equal has p = 0 if the fine ones are too, infinity otherwise.

    Args:
        losses_fine: Losses ``(n,)`` with ``n - 1`` a multiple of the factor, so that both grids end at the same points;
            or ``(..., n)``, whose total variations are averaged.
        factor: Ratio of the two grids, at least 2.

    Raises:
        UsageError: The factor is below 2, or does not divide n - 1 at least twice.

    Example:
        >>> tv_exponent([0.0, 1.0, 2.0, 3.0, 4.0], 2)
        TotalVariation(fine=4.0, coarse=4.0, exponent=0.0)
        >>> tv_exponent([0.0, 1.0, 0.0, 1.0, 4.0], 2).exponent
        0.584...
    """
    if not isinstance(factor, int) or factor < 2:
        raise UsageError(f"factor={factor} compares a grid with itself; give a whole number >= 2")
    lines = _lines(losses_fine, least=3)
    steps = lines.shape[-1] - 1
    if steps % factor or steps < 2 * factor:
        good = max(2, round(steps / factor)) * factor + 1
        raise UsageError(f"every {factor}-th of {steps + 1} points is no grid of the same range; give {good} points")
    with np.errstate(invalid="ignore", divide="ignore"):
        fine, coarse = (np.abs(np.diff(each)).sum(-1).mean() for each in (lines, lines[..., ::factor]))
        ratio = np.float64(1) if fine == coarse else fine / coarse
        return TotalVariation(float(fine), float(coarse), float(np.log(ratio) / np.log(factor)))


def _lines(losses: ArrayLike, least: int) -> NDArray[np.float64]:
    lines = np.asarray(losses, dtype=np.float64)
    if lines.ndim == 0 or lines.size == 0 or lines.shape[-1] < least:
        raise UsageError(f"losses of shape {lines.shape}; give at least {least} points in a line")
    return lines


def coarser(points: int) -> int | None:
    """Return the factor that thins a grid to a second one: the largest up to 4 that leaves 8 steps, or the least.

    Example:
        >>> coarser(81), coarser(31), coarser(5), coarser(8)
        (4, 3, 2, None)
    """
    steps = points - 1
    fits = [factor for factor in range(2, steps // 2 + 1) if steps % factor == 0]
    return max((f for f in fits if f <= 4 and steps // f >= 8), default=min(fits, default=None))


def landscape_row(
    losses: NDArray, a: NDArray, b: NDArray, baseline: NDArray | None = None
) -> dict[str, float | int | str | None]:
    """Return the numbers of one row of the landscape table, along d2 (the paper's) and d1, None where undefined.

    Intervals are delete-one jackknives over images, of the logarithm for steps and their ratio. Jumps of a mean loss
    shrink with the number of images, the steps of a smooth surface do not: a ratio belongs to its number of images as
    well as to its grid. A steep smooth surface has large steps too; second differences ignore slope.

    Args:
        losses: Losses of each image at each cell, ``(A, B, I)``; a line has A = 1.
        a: Coordinates along d1, evenly spaced.
        b: Coordinates along d2, evenly spaced.
        baseline: Baseline's losses of the same images at the same cells.

    Raises:
        UsageError: The baseline has another grid or other images.
    """
    if baseline is not None and baseline.shape != losses.shape:
        raise UsageError(f"losses {losses.shape} have no ratio to losses {baseline.shape}; compare on one grid")
    every, base = _left_out(losses), None if baseline is None else _left_out(baseline)
    surface = every[0]
    row: dict[str, float | int | str | None] = {
        "rows": len(a),
        "columns": len(b),
        "range": float(np.ptp(surface)) if np.isfinite(surface).all() else np.nan,
    }
    for name, points, swap in (("d2", b, False), ("d1", a, True)):
        if len(points) < 3:
            continue
        others = None if base is None else base.swapaxes(1, 2) if swap else base
        numbers = _along(every.swapaxes(1, 2) if swap else every, others, points)
        row |= {f"{name}_{key}": value for key, value in numbers.items()}
    return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in row.items()}


def _along(lines: NDArray, baseline: NDArray | None, points: NDArray) -> dict[str, float | int | str | None]:
    """Return statistics of lines ``(1 + I, lines, points)``: the mean over images, then with each one left out."""
    rough = roughness(lines[0], float(points[-1] - points[0]) / (len(points) - 1))
    variation = _jackknife(lines, _mean_step)
    step = _positive(variation)
    numbers: dict[str, float | int | str | None] = {
        "variation": step.value,
        "low": step.low,
        "high": step.high,
        "median": rough.median,
        "largest": rough.largest,
        "zero_share": rough.zero_share,
        "second_difference": rough.second_difference,
        "tv": rough.total,
        "step": rough.step,
    }
    if factor := coarser(len(points)):
        exponent = _jackknife(lines, lambda each: tv_exponent(each, factor).exponent).estimate()
        numbers |= {
            "tv_coarse": tv_exponent(lines[0], factor).coarse,
            "factor": factor,
            "exponent": exponent.value,
            "exponent_low": exponent.low,
            "exponent_high": exponent.high,
        }
    if baseline is not None:
        for name, statistic in (("ratio", _mean_step), ("second_ratio", _mean_bend)):
            ours, theirs = _jackknife(lines, statistic), _jackknife(baseline, statistic)
            ratio = _positive(ours.map(lambda x, y: x / y, theirs))
            numbers |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
    return numbers


def _positive(statistic: Jackknifed) -> Estimate:
    """Return a number >= 0 with the interval of its logarithm; no interval at 0 (a loss that never changes)."""
    logs = statistic.map(np.log).estimate()
    low, high = (float(np.exp(end)) if np.isfinite(end) else np.nan for end in (logs.low, logs.high))
    return Estimate(statistic.value, low, high)


def _mean_step(lines: NDArray) -> float:
    return float(np.abs(np.diff(lines)).mean())


def _mean_bend(lines: NDArray) -> float:
    return float(np.abs(np.diff(lines, n=2)).mean())


def _jackknife(lines: NDArray, statistic: Callable[[NDArray], float]) -> Jackknifed:
    with np.errstate(invalid="ignore"):
        value, *left_out = (statistic(each) for each in lines)
    return Jackknifed(value, np.array(left_out) if len(left_out) > 1 else np.full(len(left_out), np.nan))


def _left_out(losses: NDArray) -> NDArray:
    """Return mean losses over all images and then over all but one, ``(1 + I, A, B)``."""
    images = np.moveaxis(losses.astype(np.float64), -1, 0)
    total, count = images.sum(0), len(images)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([images.mean(0)[None], (total - images) / (count - 1)])

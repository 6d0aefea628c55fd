"""How rough a line of losses is (numpy only).

A step's size depends on the grid, so a single number says little: a smooth function's total variation is the same on
every grid, a hard one's grows as the grid gets finer. Whatever is measured keeps the grid it belongs to.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradprobe.errors import UsageError


@dataclass(frozen=True)
class Roughness:
    """Steps ``|L_{i+1} - L_i|`` between neighbouring points, and the grid that they belong to.

    Attributes:
        mean: mean step, the paper's stepwise variation, in units of the loss.
        median: median step.
        largest: largest step; falls with the grid for a smooth function, stays at the jump for a hard one.
        total: total variation, the sum of the steps of a line (the mean over lines).
        zero_share: share of steps that are exactly zero: 0 for nearly all smooth functions.
        second_difference: mean of ``|L_{i+1} - 2 L_i + L_{i-1}|``.
        step: distance between neighbouring points.
        points: n, how many points a line has.
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
    """Total variation on a grid and on every factor-th point of it, and p in ``TV ~ h^-p`` between the two."""

    fine: float
    coarse: float
    exponent: float


def roughness(losses: ArrayLike, step: float) -> Roughness:
    """Stepwise variation of losses at evenly spaced points; a NaN among the losses makes all the numbers NaN.

    Args:
        losses: ``(n,)`` with n >= 3, or ``(..., n)``: lines of one plane, whose steps are pooled.
        step: h, the distance between neighbouring points.

    Raises:
        UsageError: fewer than three points, or a step that is not a positive number.

    Source:
        DiffPrune, Fig. 2c, for the mean step.

    Example:
        >>> found = roughness([0.0, 1.0, 1.0, 3.0], step=0.1)
        >>> found.mean, found.median, found.largest, found.total
        (1.0, 1.0, 2.0, 3.0)
        >>> round(found.zero_share, 3), found.second_difference
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
            sizes.mean(), np.median(sizes), sizes.max(), sizes.sum(-1).mean(), (sizes == 0).mean(), second.mean(),
        )
    )  # fmt: skip
    return Roughness(mean, median, largest, total, zero, bend, float(step), lines.shape[-1])


def tv_exponent(losses_fine: ArrayLike, factor: int) -> TotalVariation:
    """Does the total variation grow as the grid gets finer? ``p = log(TV_fine / TV_coarse) / log(factor)``.

    p is 0 for a smooth function, about 1/2 for a random walk, 1 for noise of its own at every point. A line whose
    coarse points are all equal has p = 0 if the fine ones are too, infinity otherwise.

    Args:
        losses_fine: ``(n,)`` with ``n - 1`` a multiple of the factor, so that both grids end at the same points; or
            ``(..., n)``, whose total variations are averaged.
        factor: at least 2.

    Raises:
        UsageError: a factor below 2, or one that does not divide n - 1 at least twice.

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

"""Arrays of one point, and the budget's tangent plane (numpy only).

Shapes as in `gradprobe.vlm.search.gradient.measure`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Probed:
    """Measurement at one point; every number of its rows is a function of these arrays.

    Attributes:
        label: ``start``, a plan or numbers.
        numbers: Of the kernel, ``(P,)``.
        counts: Tokens that each layer reads, ``(L,)``, not rounded.
        whole: The same as they are deployed.
        share: Share of FLOPs of these.
        jacobian: Derivatives of the counts in the numbers, ``(C, P)``.
        normal: Gradient of the share of FLOPs in the numbers, ``(P,)``.
        relaxed: Gradient of each batch's relaxed loss in the numbers, ``(T, B, P)``.
        losses: Deployed loss of each batch at each draw, ``(S, D, 2, B)``.
        z: Draws behind them, ``(S, D, 2, C)``, as of `gradprobe.vlm.search.gradient.smoothed.expected_draws`.
        moment: Their second moments, ``(S, C)``.
        ladder: Schedules of the point, repaired, and after each step: the T relaxed gradients first, then the S
            smoothed ones, E steps each.
        before: Deployed loss of each held-out image at the first of them, ``(I_h,)``.
        after: At the others, ``(T + S, E, I_h)``.
        line: Coordinates, in tokens, ``(n,)``.
        line_counts: Schedules of the line.
        line_deployed: Deployed loss of each held-out image, ``(n, I_h)``.
        line_relaxed: Relaxed loss, ``(T, n, I_h)``.
    """

    label: str
    numbers: Array
    counts: Array
    whole: Counts
    share: float
    jacobian: Array
    normal: Array
    relaxed: Array
    losses: Array
    z: Array
    moment: Array
    ladder: tuple[Counts, ...]
    before: Array
    after: Array
    line: Array
    line_counts: tuple[Counts, ...]
    line_deployed: Array
    line_relaxed: Array


def in_tangent(vectors: Array, normal: Array) -> Array:
    """Return the part of vectors ``(..., P)`` that keeps the budget, to first order.

    Example:
        >>> in_tangent(np.array([3.0, 1.0]), np.array([1.0, 1.0]))
        array([ 1., -1.])
    """
    return vectors - along(vectors, normal)


def along(vectors: Array, normal: Array) -> Array:
    """Return the part of vectors ``(..., P)`` along the gradient of the budget, which the multiplier answers."""
    return (vectors @ normal)[..., None] * normal / (normal @ normal)

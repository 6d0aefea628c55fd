"""Axes of lines and planes through the scorer's parameters: origin, directions and coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradprobe.errors import UsageError
from gradprobe.landscapes.directions import (
    Params,
    checkpoint_directions,
    cosine,
    filter_normalized,
    pca_directions,
    select,
)
from gradprobe.landscapes.planes import axis
from gradprobe.probes.landscape import REACH

MARGIN = 0.25  # of the span of the checkpoints, on each side
NO_PATH: NDArray[np.float64] = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class Axes:
    """Grid of cells ``origin + a_i d1 + b_j d2``; a line runs along d2 and has ``a = [0]``.

    Attributes:
        origin: Parameters where both coordinates are 0.
        d1: Direction of the rows; empty on a line.
        d2: Direction of the columns.
        a: Coordinates along d1, ``(A,)``.
        b: Coordinates along d2, ``(B,)``.
        checkpoints: Parameters that span the plane, T of them; none for random directions.
        path: Coordinates of the checkpoints, ``(T, 2)``.
        explained: Share of squared distances along d1 and d2, ``(2,)``, for a PCA; else empty.
        residual: Distance of each checkpoint from the plane over its distance from the origin, ``(T,)``.
    """

    origin: Params = field(repr=False)
    d1: Params = field(repr=False)
    d2: Params = field(repr=False)
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    checkpoints: Sequence[Params] = field(default=(), repr=False)
    path: NDArray[np.float64] = field(default_factory=lambda: NO_PATH)
    explained: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    residual: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def describe(self) -> dict[str, Any]:
        """Return the norms of the moving part of theta and of the directions, their cosine, and the parameter count."""
        moving = {name: self.origin[name] for name in {**self.d1, **self.d2}}
        angle = cosine(self.d1, self.d2)
        norms = {name: _norm(part) for name, part in (("theta", moving), ("d1", self.d1), ("d2", self.d2))}
        count = sum(p.numel() for p in moving.values())
        return {"cosine": None if np.isnan(angle) else angle, **norms, "parameters": count}


def random_axes(
    theta: Params, rows: int, columns: int, *, seed: int, reach: float = REACH, one_d: str = "zero", pattern: str = "*"
) -> Axes:
    """Return axes along two filter-normalised Gaussian directions (seeds 2 s and 2 s + 1), from -reach to reach.

    A line is the plane's middle row: the same d2.

    Args:
        theta: All parameters.
        rows: Cells along d1; 1 for a line.
        columns: Cells along d2.
        seed: The seed s.
        reach: Half the width in filter units.
        one_d: Movement of biases and norm layers; see `gradprobe.filter_normalized`.
        pattern: Names of the parameters that move.
    """
    chosen = select(theta, pattern)
    d1 = {} if rows == 1 else filter_normalized(chosen, 2 * seed, one_d)
    d2 = filter_normalized(chosen, 2 * seed + 1, one_d)
    return Axes(theta, d1, d2, np.zeros(1) if rows == 1 else axis(reach, rows), axis(reach, columns))


def pca_axes(trajectory: Sequence[Params], rows: int, columns: int) -> Axes:
    """Return the principal plane of a training trajectory through its end, or the line along its first component.

    Args:
        trajectory: Checkpoints in order, at least 3.
        rows: Cells along the second component; 1 for a line.
        columns: Cells along the first.
    """
    principal = pca_directions(trajectory)
    second, first = principal.directions[1], principal.directions[0]
    path = principal.coordinates[:, ::-1].copy()  # d1 is the second component, so that a line runs along the first
    residual, explained = principal.residual, principal.explained[::-1].copy()
    if rows == 1:
        residual = np.sqrt(np.clip(1 - (1 - residual**2) * _share(path), 0, 1))
        path = path * [0, 1]
    a = np.zeros(1) if rows == 1 else _span(path[:, 0], rows)
    d1 = {} if rows == 1 else second
    b = _span(path[:, 1], columns)
    return Axes(principal.origin, d1, first, a, b, tuple(trajectory), path, explained, residual)


def checkpoint_axes(points: Sequence[Params], rows: int, columns: int) -> Axes:
    """Return the line through checkpoints A and B, or the plane through A, B and C; coordinates are shares of the way.

    Args:
        points: A, B and, for a plane, C.
        rows: Cells along ``C - A``; 1 for a line.
        columns: Cells along ``B - A``.
    """
    check_points(len(points), rows)
    directions = checkpoint_directions(*points)
    path = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]][: len(points)])
    shares = np.array([0.0, 1.0])
    a = np.zeros(1) if rows == 1 else _span(shares, rows)
    d1 = {} if rows == 1 else directions[1]
    residual = np.zeros(len(points))
    return Axes(points[0], d1, directions[0], a, _span(shares, columns), tuple(points), path, residual=residual)


def check_points(count: int, rows: int) -> None:
    """Refuse a line that is not through 2 checkpoints, and a plane that is not through 3.

    Raises:
        UsageError: another number.
    """
    if count != (2 if rows == 1 else 3):
        need = "a line needs 2 checkpoints" if rows == 1 else "a plane needs 3 checkpoints"
        raise UsageError(f"{need}, not {count}; give --axes checkpoints:A,B with --line, or checkpoints:A,B,C")


def _span(values: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Return even spacing over all values and 0, with a margin."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    margin = MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, points)


def _share(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the squared distances within the plane that lies along d2."""
    squares = path**2
    total = squares.sum(1)
    return np.divide(squares[:, 1], total, out=np.ones(len(path)), where=total > 0)


def _norm(direction: Params) -> float:
    return float(sum(float(d.detach().abs().double().square().sum()) for d in direction.values()) ** 0.5)

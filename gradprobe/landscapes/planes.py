"""Losses on lines and planes of parameter space, for any differentiable model.

Each point is computed from theta itself, so nothing drifts; theta and the global random state end unchanged.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError, in_words
from gradprobe.landscapes.directions import Params, along, check_directions
from gradprobe.landscapes.functional import functional_call, safe_functional_calls
from gradprobe.ranges import plain

Loss = Callable[[dict[str, Tensor]], Tensor | float]
Progress = Callable[[str, int, int], None]


def axis(reach: float, points: int) -> NDArray[np.float64]:
    """Return evenly spaced coordinates from -reach to reach: ``reach (2 i - n + 1) / (n - 1)``.

    Symmetric bit for bit, and exactly 0 in the middle of an odd number (``linspace`` is neither).

    Raises:
        UsageError: There are fewer than two points, or the reach is not a positive number.

    Example:
        >>> axis(0.3, 5)
        array([-0.3 , -0.15,  0.  ,  0.15,  0.3 ])
    """
    points, reach = plain(points), plain(reach)
    if not isinstance(points, int) or points < 2:
        raise UsageError(
            f"a grid of {in_words(points)} points is no line; give at least 2, odd ones include the centre"
        )
    if not isinstance(reach, int | float) or not 0 < reach < math.inf:
        raise UsageError(f"reach={in_words(reach)} is no range; give a positive number, such as 0.3")
    return reach * (np.arange(1 - points, points, 2) / (points - 1))


def plane(
    loss: Loss, params: Params, d1: Params, d2: Params, a: ArrayLike, b: ArrayLike, *, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Return the loss at ``theta + a_i d1 + b_j d2``.

    The cell (0, 0) is ``loss(params)`` bit for bit. NaN and infinities pass through. The loss is called under
    ``torch.no_grad``, and twice at theta to make sure that it is deterministic.

    Args:
        loss: Function of a dict like ``params`` that returns a scalar; for a model ``lambda p:
            criterion(functional_call(model, p, (x,)), y)`` with ``torch.func.functional_call``, which inside this call
            leaves the model unchanged, its buffers and submodules with two names included. The loss may seed the
            global generators: their states are restored.
        params: Parameters theta; those in no direction stay fixed.
        d1: Direction, such as one of ``filter_normalized``.
        d2: Second direction.
        a: Coordinates along d1, two or more.
        b: Coordinates along d2, two or more.
        progress: Callback with (name, done, total).

    Returns:
        Losses ``(len(a), len(b))``, rows along d1.

    Raises:
        UsageError: A grid has fewer than two points or numbers that are not finite, or directions do not fit.
        GradprobeError: The loss is not a scalar, differs between two calls, or writes into its parameters.

    Example:
        >>> theta = {"x": torch.tensor([1.0, 2.0])}
        >>> d1, d2 = {"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([0.0, 1.0])}
        >>> plane(lambda p: p["x"].square().sum(), theta, d1, d2, axis(1, 3), [0.0, 1.0])
        array([[ 4.,  9.], [ 5., 10.], [ 8., 13.]])
    """
    rows, columns = _grid(a, "a"), _grid(b, "b")
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return losses_at(loss, params, [d1, d2], points, progress=progress).reshape(len(rows), len(columns))


def line(
    loss: Loss, params: Params, d: Params, a: ArrayLike, *, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Return the loss at ``theta + a_i d``, ``(len(a),)``, in the manner of `plane`.

    Example:
        >>> line(lambda p: p["x"].exp(), {"x": torch.tensor(0.0)}, {"x": torch.tensor(1.0)}, [0.0, 1.0]).round(3)
        array([1. , 2.718])
    """
    return losses_at(loss, params, [d], _grid(a, "a")[:, None], progress=progress)


def losses_at(
    loss: Loss,
    params: Params,
    directions: Sequence[Params],
    coordinates: ArrayLike,
    *,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Return the loss at chosen points, such as the checkpoints of a trajectory in its PCA plane; see `plane`.

    Args:
        loss: Function of a dict like ``params`` that returns a scalar.
        params: Parameters theta.
        directions: Directions, k of them.
        coordinates: Coordinates of the points, ``(n, k)``.
        progress: Callback with (name, done, total).

    Returns:
        Losses ``(n,)``.

    Raises:
        UsageError: The coordinates are not ``(n, k)`` finite numbers, or the directions do not fit.
        GradprobeError: The loss is not a scalar, differs between two calls, or writes into its parameters.

    Example:
        >>> losses_at(lambda p: p["x"] ** 2, {"x": torch.tensor(1.0)}, [{"x": torch.tensor(1.0)}], [[2.0]])
        array([9.])
    """
    points = _numbers(coordinates, "coordinates")
    if points.ndim != 2 or points.shape[1] != len(directions):
        wanted = f"one row a point and one column for each of the {len(directions)} directions"
        raise UsageError(f"coordinates of shape {points.shape}; give {wanted}")
    check_directions(params, directions)
    values = np.empty(len(points))
    with safe_functional_calls(), _restored(params) as check_unwritten, torch.no_grad():
        theta = [0.0] * len(directions)
        centre = _value(loss, params, directions, theta)
        check_unwritten()
        again = _value(loss, params, directions, theta)
        if centre != again and not (math.isnan(centre) and math.isnan(again)):
            raise GradprobeError(
                f"the loss was {centre!r} and then {again!r} at the same parameters; fix its noise: draw from a "
                f"generator seeded anew in each call, or ask torch for deterministic algorithms"
            )
        for i, point in enumerate(points):
            values[i] = _value(loss, params, directions, point.tolist()) if point.any() else centre
            if progress:
                progress("loss", i + 1, len(points))
        check_unwritten()
    return values


def from_metric(metric: Callable[[Any], Any], model: nn.Module) -> Loss:
    """Make a loss of a metric of the package loss-landscapes: ``metric(wrapper)`` with ``wrapper.forward(x)``.

    The model and its buffers do not change. Metrics that need more of the wrapper (``LossPerturbations`` changes the
    parameters itself) or return more than one number are no losses.

    Args:
        metric: Metric, such as ``loss_landscapes.metrics.Loss(criterion, inputs, target)``.
        model: Model that the wrapper's ``forward`` calls with the parameters of a point.

    Raises:
        UsageError: The metric uses something else of the wrapper; raised by the loss.

    Example:
        >>> class Loss:  # as in loss_landscapes.metrics
        ...     def __call__(self, model_wrapper):
        ...         return model_wrapper.forward(torch.ones(1, 2)).sum().item()
        >>> model = nn.Linear(2, 1, bias=False)
        >>> from_metric(Loss(), model)({"weight": torch.tensor([[3.0, 4.0]])})
        7.0
    """
    return lambda params: metric(_Wrapper(model, params))


@dataclass(frozen=True)
class _Wrapper:
    """Model in the interface that metrics of loss-landscapes expect."""

    model: nn.Module
    params: Params

    def forward(self, x: Any) -> Any:
        return functional_call(self.model, self.params, (x,))

    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"the metric asks the model for {name!r}, from_metric gives forward(x) only; give a function")


def _value(loss: Loss, params: Params, directions: Sequence[Params], point: list[float]) -> float:
    value = loss(along(params, directions, point))
    if isinstance(value, Tensor):
        kind, ok = f"a {value.dtype} tensor of shape {tuple(value.shape)}", value.ndim == 0 and not value.is_complex()
    else:
        kind, ok = f"a {type(value).__name__}", isinstance(value, int | float | np.number) and np.isrealobj(value)
    if not ok:
        raise GradprobeError(f"the loss returned {kind}; return one real number, for instance losses.mean()")
    return float(value.detach() if isinstance(value, Tensor) else value)


def _grid(values: ArrayLike, name: str) -> NDArray[np.float64]:
    grid = _numbers(values, name)
    if grid.ndim != 1 or len(grid) < 2:
        shape = f"{len(grid)} point{'s' * (len(grid) != 1)}" if grid.ndim == 1 else f"shape {grid.shape}"
        raise UsageError(f"{name} has {shape}; give at least 2 coordinates in a row, for instance axis(0.3, 31)")
    return grid


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name} holds something that is not a number; give finite coordinates") from None
    if not np.isfinite(numbers).all():
        raise UsageError(f"{name} holds {numbers[~np.isfinite(numbers)][0]}; give finite coordinates")
    return numbers


@contextmanager
def _restored(params: Params) -> Iterator[Callable[[], None]]:
    """Restore theta and the global random states on exit; yields a function that raises if theta was written to."""
    copies = {name: p.detach().clone() for name, p in params.items()}

    def written() -> list[str]:  # by bits, because batch norm bypasses torch's version counter
        return [name for name, p in params.items() if not torch.equal(_bits(p), _bits(copies[name]))]

    def check_unwritten() -> None:
        if names := written():
            raise GradprobeError(
                f"the loss writes into its parameter {names[0]!r}; work on a copy (x.clone()), and put a model with "
                f"running statistics in evaluation mode"
            )

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  # a loss may use them
    try:
        with torch.random.fork_rng(devices=devices):
            yield check_unwritten
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        for name in written():
            params[name].detach().copy_(copies[name])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)

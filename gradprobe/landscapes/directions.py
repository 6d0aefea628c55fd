"""Directions in parameter space: random and filter-normalised, between checkpoints, and the PCA of a trajectory.

Parameters and directions are ``{name: tensor}``, as for ``torch.func.functional_call``. Parameters that a direction
does not name stay fixed. A complex parameter moves as its real and imaginary parts do. Integers and booleans (counters
among buffers) never move; a parameter that should move and cannot (quantised, sparse) is refused by name.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.landscapes import ONE_D
from gradprobe.ranges import plain

Params = Mapping[str, Tensor]

CHUNK = 1 << 16  # numbers of a checkpoint converted to float64 at a time
COLLINEAR = 1e-13  # of the largest eigenvalue: the rounding error of a Gram matrix of rank one


def filter_normalized(params: Params, seed: int, one_d: str = "zero") -> dict[str, Tensor]:
    """Draw a random direction in which every filter moves by its own norm: one unit is 100 % of each filter.

    ``d_f = g_f |theta_f| / |g_f|`` with g standard Gaussian and f a filter, that is a slice along dimension 0 of a
    parameter with two or more dimensions (a row of a linear layer, an output channel of a convolution). Real and
    imaginary parts of a complex filter count alike, ``|theta_f|^2 = sum_i |theta_fi|^2``. A zero filter stays zero.
    The numbers are keyed by (seed, name) and drawn on the CPU in float32: the direction of a parameter depends
    neither on the rest of ``params`` nor on the device.

    Args:
        params: Parameters theta, of any floating or complex dtypes and devices.
        seed: Non-negative integer; other seeds give independent directions.
        one_d: Rule for biases and norm layers (at most one dimension): ``zero`` (they stay fixed; Li et al.),
            ``vector`` (the whole parameter is one filter) or ``element`` (each number is one: ``+-|theta_i|``, with a
            random phase if it is complex).

    Returns:
        Direction with the names, shapes, dtypes and devices of the floating and complex entries of ``params``.

    Raises:
        UsageError: ``one_d`` is unknown, the seed is not a non-negative integer, or there is nothing to move or a
            parameter that cannot be moved (quantised, sparse, without values).

    Source:
        Li et al. 2018, arXiv 1712.09913, section 4.

    Example:
        >>> theta = {"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.ones(2)}
        >>> d = filter_normalized(theta, seed=0)
        >>> d["weight"].norm(dim=1), d["bias"]
        (tensor([5., 0.]), tensor([0., 0.]))
    """
    if one_d not in ONE_D:
        raise UsageError(f"one_d={one_d!r} says nothing about 1-D parameters; {nearest(str(one_d), ONE_D)}")
    seed = plain(seed)
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed={seed!r} is no seed; give a whole number >= 0")
    return {name: _scaled(p.detach(), name, seed, one_d) for name, p in _movable(params).items()}


def checkpoint_directions(a: Params, b: Params, c: Params | None = None) -> tuple[dict[str, Tensor], ...]:
    """Return the directions from checkpoint a to b, and to c: ``(b - a,)`` or ``(b - a, c - a)``.

    Differences have a wider dtype than the parameters (float64 at most), so that ``along(a, ..., 1)`` returns to b,
    nearly always bit for bit.

    Raises:
        UsageError: A checkpoint has another architecture; the message names the first entry that differs.

    Example:
        >>> a, b = {"w": torch.tensor([0.1, 0.2])}, {"w": torch.tensor([0.3, 7.0])}
        >>> (d,) = checkpoint_directions(a, b)
        >>> bool((along(a, [d], [1.0])["w"] == b["w"]).all())
        True
    """
    origin = _movable(a)
    others = [("b", b)] if c is None else [("b", b), ("c", c)]
    for label, other in others:
        _check_same("a", a, label, other)
    return tuple(
        {name: other[name].detach().to(p.device, _wider(p.dtype)) - p.detach() for name, p in origin.items()}
        for _, other in others
    )


@dataclass(frozen=True, eq=False)
class PCA:
    """Plane through the last checkpoint of a trajectory that lies nearest to the others.

    Attributes:
        origin: Last checkpoint, where both coordinates are 0.
        directions: Two orthonormal directions, at least float32.
        coordinates: Coordinates of the checkpoints, ``(T, 2)``, in units of the Euclidean norm.
        explained: Share of the squared distances to the origin that each direction explains, ``(2,)``. Distances count
            from the last checkpoint, not from the mean, because the plane goes through the last one.
        residual: Distance of each checkpoint from the plane, over its distance to the origin, ``(T,)`` in [0, 1].
    """

    origin: dict[str, Tensor] = field(repr=False)
    directions: tuple[dict[str, Tensor], dict[str, Tensor]] = field(repr=False)
    coordinates: NDArray[np.float64]
    explained: NDArray[np.float64]
    residual: NDArray[np.float64]


def pca_directions(trajectory: Sequence[Params]) -> PCA:
    """Return the two principal directions of ``theta_t - theta_T``, the T checkpoints relative to the last.

    They follow from the eigenvectors of the T x T Gram matrix in float64, so that only the two directions need memory
    beside the checkpoints. The sign of a direction makes the coordinate of the farthest checkpoint positive.

    Args:
        trajectory: Checkpoints of one architecture, at least three.

    Raises:
        UsageError: There are fewer than three, or one has another architecture.
        GradprobeError: The checkpoints lie on a line, are all the same, or hold numbers that are not finite.

    Source:
        Li et al. 2018, arXiv 1712.09913, section 7.2.

    Example:
        >>> pca = pca_directions([{"w": torch.tensor(w)} for w in ([3.0, 0.0], [1.0, 1.0], [1.0, 0.0])])
        >>> pca.coordinates + 0, pca.explained, pca.residual
        (array([[2., 0.], [0., 1.], [0., 0.]]), array([0.8, 0.2]), array([0., 0., 0.]))
    """
    if len(trajectory) < 3:
        raise UsageError(f"{len(trajectory)} checkpoints span no plane of a trajectory; give at least 3")
    last = len(trajectory) - 1
    for t, checkpoint in enumerate(trajectory[:-1]):
        _check_same(f"checkpoint {last}", trajectory[-1], f"checkpoint {t}", checkpoint)
    origin = {name: p.detach() for name, p in trajectory[-1].items()}
    gram = sum((x @ x.T).cpu().numpy() for _, _, x in _offsets(trajectory))
    weights, explained = _principal(np.asarray(gram), trajectory)
    directions = tuple(
        {
            name: torch.empty(p.shape, dtype=torch.promote_types(p.dtype, torch.float32), device=p.device)
            for name, p in _movable(origin).items()
        }
        for _ in range(2)
    )
    for name, piece, x in _offsets(trajectory):
        for direction, w in zip(directions, weights.T, strict=True):
            _reals(direction[name])[piece] = torch.from_numpy(w.copy()).to(x) @ x
    first, second = directions
    _divide(first, _dot(first, first) ** 0.5)
    overlap = _dot(first, second)  # rounding error
    for name, d in second.items():
        d.sub_(first[name], alpha=overlap)
    _divide(second, _dot(second, second) ** 0.5)
    coordinates, off = np.zeros((last + 1, 2)), np.zeros(last + 1)
    for name, piece, x in _offsets(trajectory):
        coordinates += (x @ _rows(directions, name, piece).T).cpu().numpy()
    for name, piece, x in _offsets(trajectory):
        rest = x - torch.from_numpy(coordinates).to(x) @ _rows(directions, name, piece)
        off += rest.square().sum(1).cpu().numpy()
    distance = np.diag(gram)
    residual = np.sqrt(np.divide(off, distance, out=np.zeros_like(off), where=distance > 0))
    return PCA(origin, (first, second), coordinates, explained, residual)


def select(params: Params, pattern: str) -> dict[str, Tensor]:
    """Select the parameters whose whole name matches a glob: ``*`` is anything, dots included, ``?`` one character.

    Raises:
        UsageError: Nothing matches; the message lists the names.

    Example:
        >>> theta = {"hidden.weight": torch.ones(2, 2), "hidden.bias": torch.ones(2), "out.weight": torch.ones(1, 2)}
        >>> list(select(theta, "hidden.*")), list(select(theta, "*.weight"))
        (['hidden.weight', 'hidden.bias'], ['hidden.weight', 'out.weight'])
    """
    if "**" in pattern:
        raise UsageError(
            f"{pattern!r} has no meaning: one * stands for anything already; give a pattern such as '*.weight'"
        )
    matches = {name: p for name, p in params.items() if fnmatchcase(name, pattern)}
    if not matches:
        names, more = list(params)[:12], len(params) - 12
        listing = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        raise UsageError(f"no parameter matches {pattern!r}; give a pattern such as '*.weight'. Names: {listing}")
    return matches


def cosine(d1: Params, d2: Params) -> float:
    """Return ``<d1, d2> / (|d1| |d2|)`` in float64, NaN for a zero direction.

    A name that is missing from one direction counts as zero, complex entries as vectors of their real and imaginary
    parts.

    Example:
        >>> cosine({"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([1.0, 0.0]), "b": torch.ones(1)})
        0.5
    """
    _check_shapes(d1, d2, "d1", "d2")
    norms = (_dot(d1, d1) * _dot(d2, d2)) ** 0.5
    return _dot(d1, d2) / norms if norms else float("nan")


def along(params: Params, directions: Sequence[Params], coordinates: Sequence[float]) -> dict[str, Tensor]:
    """Return the point ``theta + a d1 + b d2 + ...`` in theta's dtypes, without writing to ``params``.

    A direction with coordinate 0 does not enter, and a parameter that nothing moves shares theta's memory: at the
    origin the point is theta bit for bit. Parameters below float32 are rounded once, at the end.

    Args:
        params: Parameters theta.
        directions: Directions, any number of them.
        coordinates: Coordinates, one for each direction.

    Raises:
        UsageError: A direction does not fit theta, or there is not one coordinate for each.

    Example:
        >>> along({"w": torch.tensor([1.0, 2.0])}, [{"w": torch.tensor([0.0, 1.0])}], [0.5])
        {'w': tensor([1.0000, 2.5000])}
    """
    check_directions(params, directions)
    if len(directions) != len(coordinates):
        raise UsageError(f"{len(coordinates)} coordinates for {len(directions)} directions; give one for each")
    moves = [(float(x), d) for x, d in zip(coordinates, directions, strict=True) if x != 0]
    return {name: _moved(p.detach(), [(x, d[name]) for x, d in moves if name in d]) for name, p in params.items()}


def check_directions(params: Params, directions: Sequence[Params]) -> None:
    """Refuse directions with names, shapes or devices that theta does not have.

    Raises:
        UsageError: A direction does not fit; the message names its first such entry.
    """
    _movable(params)
    for i, direction in enumerate(directions, 1):
        _check_shapes(params, direction, "theta", f"d{i}")
        for name, d in direction.items():
            if name not in params:
                raise UsageError(f"d{i} moves {name!r}, which theta does not have; {nearest(name, params)}")
            if d.device != params[name].device:
                raise UsageError(f"d{i} has {name!r} on {d.device}, theta on {params[name].device}; move one of them")
            if not _continuous(params[name]):
                raise UsageError(f"d{i} moves {name!r}, which is {params[name].dtype}; leave it out of the direction")


def _movable(params: Params) -> dict[str, Tensor]:
    if not isinstance(params, Mapping) or not all(isinstance(p, Tensor) for p in params.values()):
        raise UsageError("parameters must be a dict of tensors by name; give dict(model.named_parameters())")
    for name, p in params.items():
        _check_movable(name, p)
    movable = {name: p for name, p in params.items() if _continuous(p)}
    if not movable:
        raise UsageError("there is no floating-point parameter to move; give dict(model.named_parameters())")
    return movable


def _continuous(p: Tensor) -> bool:
    return p.is_floating_point() or p.is_complex()


def _check_movable(name: str, p: Tensor) -> None:
    """Refuse a parameter that a direction should move and cannot; integer buffers just stay fixed."""
    kind = ""
    if p.is_quantized or (isinstance(p, nn.Parameter) and not _continuous(p)):
        kind = f"{p.dtype}, a parameter of whole numbers"
    elif p.is_floating_point() and torch.finfo(p.dtype).bits < 16:
        kind = f"{p.dtype}, which torch does not calculate with"
    elif p.layout != torch.strided:
        kind = f"of layout {p.layout}"
    elif p.is_meta:
        kind = "on the meta device, without values"
    if kind:
        raise UsageError(f"{name!r} is {kind}; no direction can move it: leave it out of the parameters")


def _scaled(p: Tensor, name: str, seed: int, one_d: str) -> Tensor:
    if p.ndim < 2 and one_d == "zero":
        return torch.zeros_like(p)
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    w = _reals(p).to("cpu", torch.float64)
    numbers = np.random.Generator(np.random.SFC64([seed, key])).standard_normal(w.numel(), dtype=np.float32)
    g = torch.from_numpy(numbers).double()
    filters = len(p) if p.ndim >= 2 else p.numel() if one_d == "element" else 1
    if p.numel():
        g, w = g.reshape(filters, -1), w.reshape(filters, -1)
        g *= w.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True).clamp(min=1e-100)
    return (torch.view_as_complex(g.reshape(*p.shape, 2)) if p.is_complex() else g.reshape(p.shape)).to(p)


def _reals(p: Tensor) -> Tensor:
    """Return the numbers of a parameter as a vector, complex ones as two; a view if the parameter is contiguous."""
    return (torch.view_as_real(p.resolve_conj()) if p.is_complex() else p).reshape(-1)


def _moved(p: Tensor, moves: list[tuple[float, Tensor]]) -> Tensor:
    if not moves:
        return p
    (x, d), *others = moves
    point = torch.add(p.to(torch.promote_types(p.dtype, torch.float32)), d, alpha=x)
    for x, d in others:
        point = point.add_(d, alpha=x) if point.dtype == d.dtype else torch.add(point, d, alpha=x)
    return point.to(p.dtype)


def _wider(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(torch.float32 if torch.finfo(dtype).bits < 32 else torch.float64, dtype)


def _check_same(ours: str, a: Params, theirs: str, b: Params) -> None:
    _check_shapes(a, b, ours, theirs)
    for one, other, has, lacks in ((a, b, ours, theirs), (b, a, theirs, ours)):
        for name in one:
            if name not in other:
                raise UsageError(f"{lacks} has no {name!r}, which {has} has; give checkpoints of one architecture")


def _check_shapes(a: Params, b: Params, ours: str, theirs: str) -> None:
    for name, p in a.items():
        if name in b and p.shape != b[name].shape:
            shapes = f"{tuple(b[name].shape)} in {theirs} and {tuple(p.shape)} in {ours}"
            raise UsageError(f"{name!r} is {shapes}; give tensors of one architecture")
        if name in b and p.is_complex() != b[name].is_complex():
            dtypes = f"{b[name].dtype} in {theirs} and {p.dtype} in {ours}"
            raise UsageError(f"{name!r} is {dtypes}; give both real or both complex (x.to(dtype))")


def _offsets(trajectory: Sequence[Params]) -> Iterator[tuple[str, slice, Tensor]]:
    """Yield a name, a slice of that parameter, and there the checkpoints minus the last one, ``(T, slice)``."""
    origin = _movable(trajectory[-1])
    for name, p in origin.items():
        flat = [_reals(checkpoint[name].detach()) for checkpoint in trajectory]
        for start in range(0, len(flat[-1]), CHUNK):
            piece = slice(start, min(start + CHUNK, len(flat[-1])))
            rows = torch.stack([row[piece].to(p.device, torch.float64) for row in flat])
            yield name, piece, rows - rows[-1]


def _principal(gram: NDArray[np.float64], trajectory: Sequence[Params]) -> tuple[NDArray, NDArray]:
    """Return the weights ``(T, 2)`` that make unit directions of the offsets, and the directions' shares."""
    if not np.isfinite(gram).all():
        bad = [t for t, each in enumerate(trajectory) if not all(p.isfinite().all() for p in _movable(each).values())]
        raise GradprobeError(f"checkpoints {bad or 'far apart'} hold numbers that are not finite; leave them out")
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[1] <= COLLINEAR * values[0]:
        raise GradprobeError(
            "the checkpoints lie on a line or are all the same (were they cloned?), so there is no plane; "
            "give others, or use line with checkpoint_directions(first, last)"
        )
    top = vectors[:, :2] / np.sqrt(values[:2])
    projected = gram @ top
    return top * np.sign(np.take_along_axis(projected, np.abs(projected).argmax(0)[None], 0)), values[:2] / gram.trace()


def _rows(directions: Sequence[Params], name: str, piece: slice) -> Tensor:
    return torch.stack([_reals(d[name])[piece].double() for d in directions])


def _dot(d1: Params, d2: Params) -> float:
    pairs = [(d.detach(), d2[name].detach().to(d.device)) for name, d in d1.items() if name in d2]
    return sum(float(_reals(x).double() @ _reals(y).double()) for x, y in pairs)


def _divide(direction: dict[str, Tensor], norm: float) -> None:
    for d in direction.values():
        d.div_(norm)

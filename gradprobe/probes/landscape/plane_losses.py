"""Losses of every image at every cell of a grid, with as few encoder calls as give the same numbers.

Three things make it fast. Cells share encoder calls; an image whose selection is the same as in the cell before is not
evaluated again; an MLP scorer's hidden layer is affine in the cell. Every encoder call has the same number of images
and runs on one thread, so a loss depends neither on its neighbours nor on the number of workers.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Noise, Selection, Task, apply
from gradprobe.landscapes.directions import Params
from gradprobe.landscapes.functional import functional_call
from gradprobe.probes.contract import Subject
from gradprobe.probes.landscape.axes import Axes
from gradprobe.probes.landscape.plane_scores import ScoreField
from gradprobe.training.workers import ROWS, one_thread

OPTIONAL = ("index", "key_bias", "self_bias")  # fields of a selection that the model may read beside the tokens
STRETCH = 128  # cells of a row in one piece of work


@dataclass(frozen=True)
class Plane:
    """A task and an operator on a grid of scorer parameters.

    Attributes:
        subject: Task, operator and budget.
        axes: Origin, directions and coordinates of the cells.
        seed: Seed of the noise.
        fresh: Noise of its own for each cell instead of the same for all.
    """

    subject: Subject
    axes: Axes
    seed: int
    fresh: bool = False


@dataclass(frozen=True)
class Piece:
    """A stretch of one row of cells, for one group of images."""

    group: int
    row: int
    columns: slice

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.columns.stop - self.columns.start


def pieces_of(plane: Plane, groups: list[Batch]) -> list[Piece]:
    """Return the work in its order: group by group, row by row."""
    rows, columns = len(plane.axes.a), len(plane.axes.b)
    return [
        Piece(g, i, slice(j, min(j + STRETCH, columns)))
        for g in range(len(groups))
        for i in range(rows)
        for j in range(0, columns, STRETCH)
    ]


def evaluate(
    plane: Plane, groups: list[Batch], pieces: Mapping[int, Piece], workers: int, tick: Callable[[], None]
) -> Iterator[tuple[int, NDArray]]:
    """Yield the losses ``(cells, images of the group)`` of numbered pieces of work, in the order in which they finish.

    Args:
        plane: Task, operator and grid.
        groups: Images, grouped by `gradprobe.training.workers.groups_of`.
        pieces: Work by number.
        workers: Number of threads, each with torch on one thread.
        tick: Called after each cell of a group, by one thread at a time.
    """
    own, turn, stopping = threading.local(), threading.Lock(), threading.Event()
    task, axes = plane.subject.task, plane.axes

    def checked_tick() -> None:
        if stopping.is_set():
            raise _Stopped  # Ctrl-C does not wait for the end of a piece
        with turn:
            tick()

    def work(piece: Piece) -> NDArray:
        if not hasattr(own, "field"):
            torch.set_num_threads(1)  # a new thread begins with torch's default
            own.field = ScoreField(task.scorer, axes.origin, axes.d1, axes.d2)
        with torch.no_grad():
            return piece_losses(plane, groups[piece.group], piece, own.field, checked_tick)

    with one_thread(), task.running(), ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(work, piece): number for number, piece in pieces.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


def piece_losses(plane: Plane, batch: Batch, piece: Piece, scores_at: ScoreField, tick: Callable[[], None]) -> NDArray:
    """Return the losses of one group of images along a stretch of a row, ``(cells, images)``."""
    subject, b = plane.subject, plane.axes.b
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    row = scores_at.at(batch.tokens.patches).row(float(plane.axes.a[piece.row]))
    common = _CachedNoise(plane.seed, batch.ids)
    calls = _EncoderCalls(task, batch)
    columns = range(piece.columns.start, piece.columns.stop)
    evaluations = np.empty((len(columns), len(batch.ids)), dtype=np.int64)  # the evaluation that gives each loss
    undefined = np.zeros(evaluations.shape, dtype=bool)
    before: Selection | None = None
    for cell, j in enumerate(columns):
        noise = Noise(plane.seed, batch.ids).draw(1 + piece.row * len(b) + j) if plane.fresh else common
        scores, undefined[cell] = _without_nan(row(float(b[j])))
        now = apply(operator, batch.tokens.patches, scores, k, noise, name)
        changed = torch.arange(len(batch.ids)) if before is None else _changed_images(now, before)
        evaluations[cell] = evaluations[cell - 1]
        evaluations[cell, changed.numpy()] = calls.add(now, changed)
        before = now
        tick()
    return np.where(undefined, np.nan, calls.losses()[evaluations])


def plain_losses(plane: Plane, groups: list[Batch], params: Params) -> NDArray:
    """Return the losses of all images at one point, ``(I,)``, evaluated on its own."""
    subject, parts = plane.subject, []
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    with one_thread(), task.running(), torch.no_grad():
        for batch in groups:
            scores, undefined = _without_nan(functional_call(task.scorer, params, (batch.tokens.patches,)))
            now = apply(operator, batch.tokens.patches, scores, k, Noise(plane.seed, batch.ids), name)
            calls = _EncoderCalls(task, batch)
            evaluations = calls.add(now, torch.arange(len(batch.ids)))
            parts.append(np.where(undefined, np.nan, calls.losses()[evaluations]))
    return np.concatenate(parts)


def _without_nan(scores: Tensor) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return scores that an operator can rank, and the mask ``(B,)`` of images with a NaN score, whose loss is NaN."""
    undefined = scores.isnan().any(-1)
    return scores.masked_fill(undefined[:, None], 0), undefined.cpu().numpy()


class _Stopped(Exception):
    """The end of a piece whose caller no longer waits."""


class _EncoderCalls:
    """Encoder calls with a fixed number of images each; the last call is filled up with copies."""

    def __init__(self, task: Task, batch: Batch):
        self._task, self._batch = task, batch
        self._size = ROWS.get(batch.tokens.patches.device.type, 64)
        self._waiting: list[tuple[Selection, Tensor]] = []
        self._count = self._added = 0
        self._losses: list[Tensor] = []

    def add(self, selection: Selection, images: Tensor) -> NDArray[np.int64]:
        """Evaluate a selection for some images of the batch, now or later; return the numbers of these evaluations."""
        if self._waiting and not _compatible(self._waiting[0][0], selection):
            self._call(self._count)
        if len(images):
            self._waiting.append((_subset(selection, images), images))
            self._count += len(images)
        while self._count >= self._size:
            self._call(self._size)
        numbers = np.arange(self._added, self._added + len(images))
        self._added += len(images)
        return numbers

    def losses(self) -> NDArray:
        """Return the losses of all evaluations, by number."""
        if self._count:
            self._call(self._count)
        return torch.cat(self._losses).cpu().numpy()

    def _call(self, wanted: int) -> None:
        selection, images = self._waiting[0] if len(self._waiting) == 1 else _joined(self._waiting)
        filled = torch.arange(max(wanted, self._size)).clamp(max=wanted - 1)
        losses = self._task.losses(_subset(selection, filled), self._batch.subset(images[filled]))
        self._losses.append(losses[:wanted])
        rest = torch.arange(wanted, self._count)
        self._waiting = [(_subset(selection, rest), images[rest])] if len(rest) else []
        self._count = len(rest)


@dataclass(frozen=True)
class _CachedNoise(Noise):
    """Noise that is made once: common random numbers for all cells."""

    cache: dict[tuple, Tensor] = field(default_factory=dict)

    def normal(self, shape, like=None):
        return self._once("normal", super().normal, shape, like)

    def uniform(self, shape, like=None):
        return self._once("uniform", super().uniform, shape, like)

    def gumbel(self, shape, like=None):
        return self._once("gumbel", super().gumbel, shape, like)

    def gamma(self, concentration, shape, like=None):
        return self._once(f"gamma {concentration}", partial(super().gamma, concentration), shape, like)

    def _once(self, kind: str, make: Callable, shape, like: Tensor | None) -> Tensor:
        where = None if like is None else (like.dtype, like.device)
        key = (kind, self.index, self.source, tuple(shape), where)
        if key not in self.cache:
            self.cache[key] = make(shape, like)
        return self.cache[key].clone()  # its receiver may write into it


def _changed_images(now: Selection, before: Selection) -> Tensor:
    """Return the images for which the model reads other bits than before; all of them if shapes differ."""
    everyone = torch.arange(len(now.tokens))
    if not _compatible(now, before):
        return everyone
    pairs = [(getattr(now, name), getattr(before, name)) for name in (*OPTIONAL, "tokens")]
    same = torch.ones(len(now.tokens), dtype=torch.bool, device=now.tokens.device)
    for ours, theirs in pairs:
        if ours is not None and theirs is not None:
            same &= (ours[:, ::16] == theirs[:, ::16]).flatten(1).all(1)  # a look at a few tokens spares the rest
            if not same.any():
                return everyone
            same &= (ours == theirs).flatten(1).all(1)
    return everyone[~same.cpu()]


def _compatible(one: Selection, other: Selection) -> bool:
    """Tell whether the model can read two selections in one call."""
    same = all((getattr(one, name) is None) == (getattr(other, name) is None) for name in OPTIONAL)
    return same and one.tokens.shape[1:] == other.tokens.shape[1:]


def _joined(waiting: list[tuple[Selection, Tensor]]) -> tuple[Selection, Tensor]:
    selections = [selection for selection, _ in waiting]

    def cat(name: str) -> Tensor | None:
        values = [getattr(selection, name) for selection in selections]
        return None if values[0] is None else torch.cat(values)

    tokens, weights = (torch.cat([getattr(s, name) for s in selections]) for name in ("tokens", "weights"))
    joined = Selection(tokens, weights, **{name: cat(name) for name in OPTIONAL})
    return joined, torch.cat([images for _, images in waiting])


def _subset(selection: Selection, images: Tensor) -> Selection:
    if len(images) == len(selection.tokens) and torch.equal(images, torch.arange(len(images))):
        return selection
    images = images.to(selection.tokens.device)

    def take(name: str) -> Tensor | None:
        value = getattr(selection, name)
        return None if value is None else value[images]

    return Selection(selection.tokens[images], selection.weights[images], **{name: take(name) for name in OPTIONAL})

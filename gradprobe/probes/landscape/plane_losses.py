"""Losses of every image at every cell of a grid, with as few encoder calls as give the same numbers.

Three things make it fast. Cells share encoder calls; an image whose selection is the same as in the cell before is not
evaluated again (see `encoder_calls`); an MLP scorer's hidden layer is affine in the cell. Every encoder call has the
same number of images and runs on one thread, so a loss depends neither on the number of workers nor on its neighbours
(but for a processor that rounds a float64 matrix product differently by row: then by a unit in the last place).
Where memory runs out, that number is halved and the piece of work begins anew.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Noise, Selection, apply
from gradprobe.deferred import deferring
from gradprobe.landscapes.directions import Params
from gradprobe.landscapes.functional import functional_call
from gradprobe.probes.contract import Subject
from gradprobe.probes.landscape.axes import Axes
from gradprobe.probes.landscape.encoder_calls import EncoderCalls, with_changes
from gradprobe.probes.landscape.plane_scores import ScoreField
from gradprobe.training.memory import Limit, halving, rows_for
from gradprobe.training.workers import one_thread

STRETCH = 128  # cells of a row in one piece of work


@dataclass(frozen=True)
class Plane:
    """A task and an operator on a grid of scorer parameters.

    Attributes:
        subject: Task, operator and budget.
        axes: Origin, directions and coordinates of the cells.
        seed: Seed of the noise.
        fresh: Noise of its own for each cell instead of the same for all.
        limit: Images of an encoder call, where memory was full.
    """

    subject: Subject
    axes: Axes
    seed: int
    fresh: bool = False
    limit: Limit = field(default_factory=Limit, compare=False)

    def halving(self, work: Callable[[int], NDArray], batch: Batch) -> NDArray:
        """Return ``work`` of the number of images of an encoder call; where memory is full, of fewer."""
        patches = batch.tokens.patches
        return halving(work, rows_for(patches.device, patches.shape[1]), patches.device, self.limit)


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
        groups: Images, grouped by `gradprobe.training.workers.numbered_groups`.
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
        batch, done = groups[piece.group], 0

        def tick_once(cell: int) -> None:
            nonlocal done
            if cell == done:  # a piece that begins anew counts its cells once
                done += 1
                checked_tick()

        with deferring(), torch.no_grad():
            return plane.halving(lambda rows: piece_losses(plane, batch, piece, own.field, rows, tick_once), batch)

    with one_thread(), task.running(), ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(copy_context().run, work, piece): number for number, piece in pieces.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


def piece_losses(
    plane: Plane, batch: Batch, piece: Piece, scores_at: ScoreField, rows: int, tick: Callable[[int], None]
) -> NDArray:
    """Return the losses of one group of images along a stretch of a row, ``(cells, images)``.

    Args:
        plane: Task, operator and grid.
        batch: The group.
        piece: The stretch.
        scores_at: Scores along rows of the plane.
        rows: Images of an encoder call.
        tick: Called with the number of each cell, in order.
    """
    subject, b = plane.subject, plane.axes.b
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    line = scores_at.at(batch.tokens.patches).row(float(plane.axes.a[piece.row]))
    common = _CachedNoise(plane.seed, batch.ids, generator=task.generator)

    def cells() -> Iterator[tuple[Selection, Tensor]]:
        """Yield the selection of each cell, and the images whose loss is NaN whatever it is."""
        for j in columns:
            noise = Noise(plane.seed, batch.ids, generator=task.generator)
            noise = noise.draw(1 + piece.row * len(b) + j) if plane.fresh else common
            scores, without = _without_nan(line(float(b[j])))
            yield apply(operator, batch.tokens.patches, scores, k, noise, name), without

    calls = EncoderCalls(task, batch, rows)
    columns = range(piece.columns.start, piece.columns.stop)
    evaluations = np.empty((len(columns), len(batch.ids)), dtype=np.int64)  # the evaluation that gives each loss
    undefined: list[Tensor] = []
    for cell, (now, without, changed) in enumerate(with_changes(cells, len(batch.ids), batch.tokens.patches.device)):
        undefined.append(without)
        evaluations[cell] = evaluations[cell - 1]
        evaluations[cell, changed.numpy()] = calls.add(now, changed)
        tick(cell)
    return np.where(torch.stack(undefined).cpu().numpy(), np.nan, calls.losses().cpu().numpy()[evaluations])


def plain_losses(plane: Plane, groups: list[Batch], params: Params) -> NDArray:
    """Return the losses of all images at one point, ``(I,)``, evaluated on its own."""
    return plane.halving(lambda rows: _plain_losses(plane, groups, params, rows), groups[0])


def _plain_losses(plane: Plane, groups: list[Batch], params: Params, rows: int) -> NDArray:
    subject, parts = plane.subject, []
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    with one_thread(), task.running(), deferring(), torch.no_grad():
        for batch in groups:
            scores, undefined = _without_nan(functional_call(task.scorer, params, (batch.tokens.patches,)))
            noise = Noise(plane.seed, batch.ids, generator=task.generator)
            now = apply(operator, batch.tokens.patches, scores, k, noise, name)
            calls = EncoderCalls(task, batch, rows)
            calls.add(now, torch.arange(len(batch.ids)))
            parts.append(calls.losses().masked_fill(undefined, torch.nan))
        return torch.cat(parts).cpu().numpy()


def _without_nan(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores that an operator can rank, and the mask ``(B,)`` of images with a NaN score, whose loss is NaN."""
    undefined = scores.isnan().any(-1)
    return scores.masked_fill(undefined[:, None], 0), undefined


class _Stopped(Exception):
    """The end of a piece whose caller no longer waits."""


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

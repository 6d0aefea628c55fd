"""The loss of every image at every cell of a grid, with as few encoder passes as give the same numbers.

Three things make it fast. Cells share encoder calls; an image whose selection is the same as in the cell before is not
evaluated again; an MLP scorer's hidden layer is affine in the cell. Every encoder call has the same number of rows and
runs on one thread, so a loss depends neither on its neighbours nor on how many workers there are.
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

from gradprobe.core import Batch, Noise, Selection, SelectionOperator, Task, apply
from gradprobe.landscapes.directions import Params
from gradprobe.landscapes.functional import functional_call
from gradprobe.probes.landscape.plane_scores import ScoreField
from gradprobe.training.workers import ROWS, one_thread

OPTIONAL = ("index", "key_bias", "self_bias")  # fields of a selection that the model may read beside the tokens
STRETCH = 128  # cells of a row in one piece of work


@dataclass(frozen=True)
class Plane:
    """What is evaluated: a task and an operator on a grid around theta.

    Attributes:
        task: frozen model, scorer and data.
        operator: what selects.
        k: tokens kept.
        name: what errors call the operator.
        params: theta, all of the scorer's parameters.
        d1: a direction; empty for none.
        d2: another.
        a: coordinates along d1, ``(A,)``.
        b: coordinates along d2, ``(B,)``.
        seed: of the noise.
        fresh: noise of its own for each cell instead of the same for all.
    """

    task: Task
    operator: SelectionOperator
    k: int
    name: str
    params: Params
    d1: Params
    d2: Params
    a: NDArray[np.float64]
    b: NDArray[np.float64]
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
        """How many cells."""
        return self.columns.stop - self.columns.start


def pieces_of(plane: Plane, groups: list[Batch]) -> list[Piece]:
    """The work in its order: group by group, row by row."""
    return [
        Piece(g, i, slice(j, min(j + STRETCH, len(plane.b))))
        for g in range(len(groups)) for i in range(len(plane.a)) for j in range(0, len(plane.b), STRETCH)
    ]  # fmt: skip


def evaluate(
    plane: Plane, groups: list[Batch], pieces: Mapping[int, Piece], workers: int, tick: Callable[[], None]
) -> Iterator[tuple[int, NDArray]]:
    """Losses ``(cells, images of the group)`` of numbered pieces of work, in the order in which they get ready.

    Args:
        plane: what is evaluated.
        groups: of images, as `groups_of` makes them.
        pieces: by number.
        workers: threads; each runs torch on one thread of its own.
        tick: called after each cell of a group, by one thread at a time.
    """
    own, turn, stopping = threading.local(), threading.Lock(), threading.Event()

    def one_more() -> None:
        if stopping.is_set():
            raise _Stopped  # Ctrl-C does not wait for the end of a piece
        with turn:
            tick()

    def work(piece: Piece) -> NDArray:
        if not hasattr(own, "field"):
            torch.set_num_threads(1)  # a new thread begins with torch's default
            own.field = ScoreField(plane.task.scorer, plane.params, plane.d1, plane.d2)
        with torch.no_grad():
            return piece_losses(plane, groups[piece.group], piece, own.field, one_more)

    with one_thread(), plane.task.running(), ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(work, piece): number for number, piece in pieces.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


def piece_losses(plane: Plane, batch: Batch, piece: Piece, scores_at: ScoreField, tick: Callable[[], None]) -> NDArray:
    """Losses of one group of images along a stretch of a row, ``(cells, images)``."""
    row = scores_at.at(batch.tokens.patches).row(float(plane.a[piece.row]))
    common = _Remembered(plane.seed, batch.ids)
    runs = _Runs(plane.task, batch)
    columns = range(piece.columns.start, piece.columns.stop)
    which = np.empty((len(columns), len(batch.ids)), dtype=np.int64)  # the evaluation that gives each loss
    undefined = np.zeros(which.shape, dtype=bool)
    before: Selection | None = None
    for cell, j in enumerate(columns):
        noise = Noise(plane.seed, batch.ids).draw(1 + piece.row * len(plane.b) + j) if plane.fresh else common
        scores, undefined[cell] = _without_nan(row(float(plane.b[j])))
        now = apply(plane.operator, batch.tokens.patches, scores, plane.k, noise, plane.name)
        changed = torch.arange(len(batch.ids)) if before is None else _changed(now, before)
        which[cell] = which[cell - 1]
        which[cell, changed.numpy()] = runs.add(now, changed)
        before = now
        tick()
    return np.where(undefined, np.nan, runs.losses()[which])


def plain_losses(plane: Plane, groups: list[Batch], params: Params) -> NDArray:
    """Losses of all images at one point, ``(I,)``, evaluated on its own."""
    found = []
    with one_thread(), plane.task.running(), torch.no_grad():
        for batch in groups:
            scores, undefined = _without_nan(functional_call(plane.task.scorer, params, (batch.tokens.patches,)))
            noise = Noise(plane.seed, batch.ids)
            now = apply(plane.operator, batch.tokens.patches, scores, plane.k, noise, plane.name)
            runs = _Runs(plane.task, batch)
            numbers = runs.add(now, torch.arange(len(batch.ids)))
            found.append(np.where(undefined, np.nan, runs.losses()[numbers]))
    return np.concatenate(found)


def _without_nan(scores: Tensor) -> tuple[Tensor, NDArray[np.bool_]]:
    """Scores that an operator can rank, and the images ``(B,)`` whose loss is NaN because a score of theirs is."""
    undefined = scores.isnan().any(-1)
    return scores.masked_fill(undefined[:, None], 0), undefined.cpu().numpy()


class _Stopped(Exception):
    """The caller has stopped waiting for this piece."""


class _Runs:
    """Encoder calls of always the same number of rows; what is left over at the end is filled up with copies."""

    def __init__(self, task: Task, batch: Batch):
        self._task, self._batch = task, batch
        self._rows = ROWS.get(batch.tokens.patches.device.type, 64)
        self._waiting: list[tuple[Selection, Tensor]] = []
        self._count = self._added = 0
        self._found: list[Tensor] = []

    def add(self, selection: Selection, images: Tensor) -> NDArray[np.int64]:
        """Evaluate a selection for some images of the batch (now or later); the numbers of these evaluations."""
        if self._waiting and not _alike(self._waiting[0][0], selection):
            self._run(self._count)
        if len(images):
            self._waiting.append((_rows_of(selection, images), images))
            self._count += len(images)
        while self._count >= self._rows:
            self._run(self._rows)
        numbers = np.arange(self._added, self._added + len(images))
        self._added += len(images)
        return numbers

    def losses(self) -> NDArray:
        """The losses of all evaluations, by number."""
        if self._count:
            self._run(self._count)
        return torch.cat(self._found).cpu().numpy()

    def _run(self, wanted: int) -> None:
        selection, images = self._waiting[0] if len(self._waiting) == 1 else _joined(self._waiting)
        filled = torch.arange(max(wanted, self._rows)).clamp(max=wanted - 1)
        run = _rows_of(selection, filled)
        self._found.append(self._task.losses(run, self._batch.subset(images[filled]))[:wanted])
        left = torch.arange(wanted, self._count)
        self._waiting = [(_rows_of(selection, left), images[left])] if len(left) else []
        self._count = len(left)


@dataclass(frozen=True)
class _Remembered(Noise):
    """Noise that is made once: common random numbers for all cells."""

    made: dict[tuple, Tensor] = field(default_factory=dict)

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
        if key not in self.made:
            self.made[key] = make(shape, like)
        return self.made[key].clone()  # its receiver may write into it


def _changed(now: Selection, before: Selection) -> Tensor:
    """The images of which something that the model reads differs, by their bits; all of them if shapes differ."""
    everyone = torch.arange(len(now.tokens))
    if not _alike(now, before):
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


def _alike(one: Selection, other: Selection) -> bool:
    """Whether two selections can be read by the model in one call."""
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


def _rows_of(selection: Selection, rows: Tensor) -> Selection:
    if len(rows) == len(selection.tokens) and torch.equal(rows, torch.arange(len(rows))):
        return selection
    rows = rows.to(selection.tokens.device)

    def take(name: str) -> Tensor | None:
        value = getattr(selection, name)
        return None if value is None else value[rows]

    return Selection(selection.tokens[rows], selection.weights[rows], **{name: take(name) for name in OPTIONAL})

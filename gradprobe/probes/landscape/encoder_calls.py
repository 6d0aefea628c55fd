"""Encoder calls for many cells of a plane: shared by cells, and only for images whose selection changed."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Selection, Task

OPTIONAL = ("index", "key_bias", "self_bias")  # fields of a selection that the model may read beside the tokens


class EncoderCalls:
    """Encoder calls with a fixed number of images each; the last call is filled up with copies."""

    def __init__(self, task: Task, batch: Batch, size: int):
        self._task, self._batch, self._size = task, batch, size
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

    def losses(self) -> Tensor:
        """Return the losses of all evaluations, by number."""
        if self._count:
            self._call(self._count)
        return torch.cat(self._losses)

    def _call(self, wanted: int) -> None:
        selection, images = self._waiting[0] if len(self._waiting) == 1 else _joined(self._waiting)
        filled = torch.arange(max(wanted, self._size)).clamp(max=wanted - 1)
        losses = self._task.losses(_subset(selection, filled), self._batch.subset(images[filled]))
        self._losses.append(losses[:wanted])
        rest = torch.arange(wanted, self._count)
        self._waiting = [(_subset(selection, rest), images[rest])] if len(rest) else []
        self._count = len(rest)


def with_changes(
    cells: Callable[[], Iterator[tuple[Selection, Tensor]]], images: int, device: torch.device
) -> Iterator[tuple[Selection, Tensor, Tensor]]:
    """Yield each cell with the images for which the model reads other bits than in the cell before.

    A GPU is waited for once, after a pass that makes all selections; they are then made again.

    Args:
        cells: Function that gives the selection of each cell, and whatever belongs to it.
        images: Number of images, B.
        device: Device of the selections.
    """
    everyone = torch.arange(images)
    if device.type == "cpu":
        before: Selection | None = None
        for now, without in cells():
            yield now, without, everyone if before is None else everyone[~_same_images(now, before)]
            before = now
        return
    selections = (now for now, _ in cells())
    masks = [_same_images(now, before) for before, now in pairwise(selections)]
    same = torch.stack([torch.zeros(images, dtype=torch.bool, device=device), *masks]).cpu()
    for (now, without), known in zip(cells(), same, strict=True):
        yield now, without, everyone[~known]


def _same_images(now: Selection, before: Selection) -> Tensor:
    """Return the mask ``(B,)`` of images for which the model reads the same bits as before; none if shapes differ."""
    same = torch.full(now.tokens.shape[:1], _compatible(now, before), device=now.tokens.device)
    if not _compatible(now, before):
        return same
    for name in (*OPTIONAL, "tokens"):
        ours, theirs = getattr(now, name), getattr(before, name)
        if ours is not None:
            same &= (ours[:, ::16] == theirs[:, ::16]).flatten(1).all(1)  # a look at a few tokens spares the rest
            if same.device.type == "cpu" and not same.any():
                break
            same &= (ours == theirs).flatten(1).all(1)
    return same


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
    images = images.to(selection.tokens.device, non_blocking=True)

    def take(name: str) -> Tensor | None:
        value = getattr(selection, name)
        return None if value is None else value[images]

    return Selection(selection.tokens[images], selection.weights[images], **{name: take(name) for name in OPTIONAL})

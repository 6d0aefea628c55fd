"""Where a task's images come from: a folder of photographs, or the embedded scenes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import numpy as np
import torch

from gradprobe.data.images import ImageFolder, Images
from gradprobe.data.scenes import scenes


class Source(Protocol):
    """Images by position in a seeded order; probes and training read different orders."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that could not be read so far and were passed over."""
        ...

    @property
    def size(self) -> int:
        """How many images probes can read."""
        ...

    def need(self, images: int) -> None:
        """Refuse a question that needs more images than there are."""
        ...

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Images ``start .. start + size`` of the order that probes read."""
        ...

    def train(self, start: int, size: int, seed: int) -> Images:
        """The same for training; the order never ends."""
        ...


@dataclass(frozen=True)
class SceneSource:
    """The embedded scenes: probes read scenes of held-out digits, training reads scenes of the others."""

    skipped: tuple[str, ...] = ()
    size: int = 1_000_000

    def need(self, images: int) -> None:
        """There are always enough scenes."""

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Scenes ``start .. start + size`` of the seed's own million."""
        return self._take("heldout", seed * 1_000_000 + start, size)

    def train(self, start: int, size: int, seed: int) -> Images:
        """The same of digits that the model was trained on, in scenes that it was not."""
        return self._take("train", (seed + 1_000) * 1_000_000 + start, size)

    def _take(self, split: str, first: int, size: int) -> Images:
        ids = range(first, first + size)
        made = scenes(split, ids)
        labels = torch.from_numpy(np.asarray(made.labels, np.int64))
        return Images(torch.from_numpy(made.images), labels, tuple(ids), torch.from_numpy(made.red))


@dataclass(frozen=True)
class FolderSource:
    """A folder of images in a seeded order; training goes round it, or another, in a new order each time."""

    folder: ImageFolder
    training: ImageFolder | None = None

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that could not be read so far and were passed over."""
        return self.folder.skipped + (() if self.training is None else self.training.skipped)

    def unread(self) -> "FolderSource":
        """Return the same images with nothing known yet of the files that cannot be read."""
        return FolderSource(replace(self.folder), None if self.training is None else replace(self.training))

    @property
    def size(self) -> int:
        """Files in the folder that is probed."""
        return len(self.folder)

    def need(self, images: int) -> None:
        """Refuse a question that needs more images than the folder has.

        Raises:
            UsageError: it has fewer.
        """
        self.folder.need(images)

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Images ``start .. start + size`` of the seed's permutation.

        Raises:
            GradprobeError: too few of them can be read.
        """
        return self.folder.take(self.folder.order(seed), start, size)

    def train(self, start: int, size: int, seed: int) -> Images:
        """The same going round and round, a new permutation each time."""
        return (self.training or self.folder).take(self._endless(seed), start, size)

    def _endless(self, seed: int) -> Iterator[int]:
        for epoch in count(seed + 1_000):
            yield from (self.training or self.folder).order(epoch)

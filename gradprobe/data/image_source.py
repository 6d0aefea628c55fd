"""Sources of a task's images: a folder of photographs, or the embedded scenes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import numpy as np
import torch

from gradprobe.data.images import ImageFolder, Images
from gradprobe.data.photo_scenes import data_name, drawing
from gradprobe.data.picture_cache import HOST, Picture, prepared
from gradprobe.embedded.scenes_model import SCENES


class ImageSource(Protocol):
    """Images by position in a seeded order; probes and training read different orders."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files skipped so far because they could not be read."""
        ...

    @property
    def size(self) -> int:
        """Number of images available to probes."""
        ...

    def need(self, images: int) -> None:
        """Refuse a request for more images than the source has."""
        ...

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Return images ``start .. start + size`` in the order of probes."""
        ...

    def train(self, start: int, size: int, seed: int) -> Images:
        """Return images ``start .. start + size`` in the order of training, which is endless."""
        ...


@dataclass(frozen=True)
class SceneSource:
    """Embedded scenes; probes read scenes of held-out digits, training reads scenes of the other digits.

    On a CPU drawing a scene takes a tenth of the model's time and less; a GPU would wait, so it keeps them.

    Attributes:
        skipped: None are passed over.
        size: Scenes of a seed.
        device: Device of the model.
        pictures: ``scenes``, or ``photos`` for scenes on photographs, of held-out regions for probes.
    """

    skipped: tuple[str, ...] = ()
    size: int = 1_000_000
    device: torch.device = HOST
    pictures: str = SCENES

    @property
    def fingerprint(self) -> str:
        """Name of the data in a question."""
        return data_name(self.pictures)

    def need(self, images: int) -> None:
        """Accept any number of images: scenes never run out."""

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Return scenes ``start .. start + size`` of the million that belongs to the seed."""
        return self._take("heldout", seed * 1_000_000 + start, size)

    def train(self, start: int, size: int, seed: int) -> Images:
        """Return scenes of the digits that the model was trained on, but not the scenes it was trained on."""
        return self._take("train", (seed + 1_000) * 1_000_000 + start, size)

    def _take(self, split: str, first: int, size: int) -> Images:
        ids = range(first, first + size)
        if self.device.type == "cpu":
            images, labels, red = self._drawn(split, ids)
        else:
            keys = [(self.pictures, split, i) for i in ids]
            kept = prepared(keys, lambda at: zip(*self._drawn(split, [ids[i] for i in at]), strict=True), self.device)
            images, labels, red = map(torch.stack, zip(*(each for each in kept if each is not None), strict=True))
        return Images(images, labels, tuple(ids), red)

    def _drawn(self, split: str, ids: Sequence[int]) -> Picture:
        """Return scenes, their labels and the patches that matter."""
        batch = drawing(self.pictures)(split, ids)
        labels = torch.from_numpy(np.asarray(batch.labels, np.int64))
        return torch.from_numpy(batch.images), labels, torch.from_numpy(batch.red)


@dataclass(frozen=True)
class FolderSource:
    """Folder of images in a seeded order; training repeats it (or another folder) in a new order each epoch."""

    folder: ImageFolder
    training: ImageFolder | None = None

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files skipped so far because they could not be read."""
        return self.folder.skipped + (() if self.training is None else self.training.skipped)

    def unread(self) -> "FolderSource":
        """Return a copy with no record of which files can be read."""
        return FolderSource(replace(self.folder), None if self.training is None else replace(self.training))

    @property
    def size(self) -> int:
        """Number of files in the folder of probes."""
        return len(self.folder)

    def need(self, images: int) -> None:
        """Refuse a request for more images than the folder has.

        Raises:
            UsageError: The folder has fewer.
        """
        self.folder.need(images)

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Return images ``start .. start + size`` of the seed's permutation.

        Raises:
            GradprobeError: Too few of them can be read.
        """
        return self.folder.take(self.folder.order(seed), start, size)

    def train(self, start: int, size: int, seed: int) -> Images:
        """Return images ``start .. start + size`` of an endless order, a new permutation each epoch."""
        return (self.training or self.folder).take(self._endless(seed), start, size)

    def _endless(self, seed: int) -> Iterator[int]:
        for epoch in count(seed + 1_000):
            yield from (self.training or self.folder).order(epoch)

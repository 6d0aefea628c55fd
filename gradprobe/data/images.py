"""A folder of photographs as a task reads it: only the files that are needed, each with a stable integer."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from gradprobe.data.classes import labels_of
from gradprobe.data.fingerprints import image_files
from gradprobe.data.reader import PictureError, read_picture
from gradprobe.errors import GradprobeError, UsageError

_THREADS = min(8, os.cpu_count() or 1)  # PIL lets go of the interpreter while it decodes


@dataclass(frozen=True)
class Images:
    """Preprocessed images ``(B, 3, H, W)``, their labels ``(B,)`` or None, and one stable integer each.

    ``relevant (B, N)`` says which patches matter, where that is known.
    """

    images: Tensor
    labels: Tensor | None
    ids: tuple[int, ...]
    relevant: Tensor | None = None


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, by position in a list of sorted relative paths.

    Pictures are read by `read_picture`: upright, on white, 8 bits. One that cannot be used is found out when its turn
    comes, and from then on the folder is as if it had never been there: batches depend on the files and the order
    alone, not on what was read before.

    Attributes:
        root: the folder.
        files: relative paths, sorted.
        ids: one 63-bit integer an image, a hash of its relative path: the key of its noise.
        labels: the class of each image; None where the folder does not tell.
        unlabelled: why there are no labels, and the remedy; empty where there are.
        transform: PIL image -> tensor ``(3, H, W)``.
    """

    root: Path
    files: tuple[str, ...]
    ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    unlabelled: str
    transform: Callable[[Image.Image], Tensor]
    # What is known of the files so far; it saves work and changes no answer.
    _readable: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        transform: Callable[[Image.Image], Tensor],
        n_classes: int | None = None,
        class_order: str | None = None,
    ) -> "ImageFolder":
        """List a folder: a sub-folder per class, or images without labels.

        Sub-folders named by wnids (``n01440764``) get ImageNet's 1000 labels, sub-folders named by numbers get these;
        others are labelled in sorted order if there are as many as the model has classes and text and natural order
        agree, or in the order that is asked for. No file is read yet.

        Args:
            path: the folder.
            transform: PIL image -> tensor, such as `transform_for` gives.
            n_classes: how many classes the model tells apart; None: not known.
            class_order: ``text`` (torchvision's) or ``natural`` (timm's) labels the sub-folders in this order.

        Raises:
            UsageError: there is no such folder or order, or no image in it.
        """
        root = Path(path)
        files = tuple(image_files(root))
        labels, unlabelled = labels_of(root, files, n_classes, class_order)
        ids = tuple(image_id(file) for file in files)
        return cls(root, files, ids, labels, unlabelled, transform)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The files that turned out to be unreadable so far."""
        return tuple(self.files[i] for i, good in sorted(self._readable.items()) if not good)

    def order(self, seed: int) -> np.ndarray:
        """A permutation of all positions, the same for the same seed and number of files."""
        return np.random.Generator(np.random.SFC64([seed])).permutation(len(self.files))

    def need(self, count: int) -> None:
        """Refuse before any work a question that needs more images than there are.

        Raises:
            UsageError: the folder has fewer than ``count``.
        """
        if count > len(self.files):
            raise UsageError(
                f"--data {self.root} has {len(self.files)} images and {count} are needed; "
                f"lower --images, --batches or --batch-size, or give a larger folder"
            )

    def need_labels(self) -> None:
        """Refuse a question that needs labels if there are none.

        Raises:
            UsageError: the folder does not tell its classes; says why.
        """
        if self.labels is None:
            raise UsageError(f"--loss ce needs labels but in --data {self.root} {self.unlabelled}")

    def take(self, order: Iterable[int], start: int, size: int) -> Images:
        """Images ``start .. start + size`` of those in ``order`` that can be read.

        An unreadable file is passed over and all later ones move up, so no image comes twice and it does not matter
        which part was asked for first. Files before ``start`` that were never read are decoded once to find out.

        Args:
            order: positions; may be endless.
            start: how many readable images to pass over.
            size: how many to read, at least 1.

        Raises:
            UsageError: the order, with every file readable, has too few.
            GradprobeError: it has too few because of unreadable files, or none can be read.
        """
        walk = iter(order)
        passed, misses, listed = 0, 0, 0
        indices: list[int] = []
        images: list[Tensor] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            while len(images) < size:
                chunk = [int(i) for i in islice(walk, start - passed or size - len(images))]
                if passed < start:
                    found = sum(self._check(chunk, pool))
                    passed += found
                else:
                    read = [(i, x) for i, x in zip(chunk, pool.map(self._read, chunk), strict=True) if x is not None]
                    indices += [i for i, _ in read]
                    images += [x for _, x in read]
                    found = len(read)
                listed += len(chunk)
                misses = 0 if found else misses + len(chunk)
                if not chunk or misses >= len(self.files):
                    raise self._too_few(start + size, listed)
        labels = None if self.labels is None else torch.tensor([self.labels[i] for i in indices])
        return Images(torch.stack(images), labels, tuple(self.ids[i] for i in indices))

    def _check(self, chunk: Sequence[int], pool: ThreadPoolExecutor) -> list[bool]:
        unknown = [i for i in chunk if i not in self._readable]
        for _ in pool.map(self._decode, unknown):
            pass
        return [self._readable[i] for i in chunk]

    def _read(self, index: int) -> Tensor | None:
        image = self._decode(index)
        return None if image is None else self.transform(image)

    def _decode(self, index: int) -> Image.Image | None:
        if self._readable.get(index) is False:
            return None
        try:
            image = read_picture(self.root / self.files[index])
        except PictureError:
            self._readable[index] = False
            return None
        self._readable[index] = True
        return image

    def _too_few(self, asked: int, listed: int) -> GradprobeError:
        bad = self.skipped
        if not bad:
            return UsageError(f"--data {self.root}: {asked} images were asked for and {listed} given; ask for fewer")
        if len(bad) == len(self.files):
            return GradprobeError(
                f"none of the {len(bad)} images in {self.root} can be read, {bad[0]} for one; give others"
            )
        what = f"{len(bad)} of the {len(self.files)} images in {self.root} cannot be read ({bad[0]} for one)"
        advice = "lower --images, --batches or --batch-size, or give others"
        return GradprobeError(f"{what}, too many for {asked}; {advice}")


def transform_for(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """The evaluation preprocessing that timm states for a model, at the size the model was built for."""
    config = dict(resolve_model_data_config(model))
    size: Any = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        config["input_size"] = (3, *size)
    return create_transform(**config, is_training=False)


def image_id(file: str) -> int:
    """A 63-bit integer from a relative path: the same on any machine and in any folder listing.

    Example:
        >>> image_id("n01440764/a.jpg") == image_id("n01440764/a.jpg") != image_id("n01440764/b.jpg")
        True
    """
    # NFC: file systems differ in how they spell accents.
    name = unicodedata.normalize("NFC", file).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1

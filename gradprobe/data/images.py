"""Folder of photographs: files are read on demand, and each has a stable integer id."""

import os
import time
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
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
from gradprobe.data.hashes import RACY_NS, stamp
from gradprobe.data.picture_cache import HOST, Picture, prepared
from gradprobe.data.reader import PictureError, read_picture
from gradprobe.errors import GradprobeError, UsageError

_THREADS = min(8, os.cpu_count() or 1)  # PIL releases the interpreter lock while it decodes


@dataclass(frozen=True)
class Images:
    """Preprocessed images ``(B, 3, H, W)``, their labels ``(B,)`` or None, and a stable integer id each.

    ``relevant (B, N)`` is the mask of the patches that matter, None where it is unknown.
    """

    images: Tensor
    labels: Tensor | None
    ids: tuple[int, ...]
    relevant: Tensor | None = None


@dataclass(frozen=True)
class ImageFolder:
    """Folder of images, by position in a sorted list of relative paths.

    Pictures are read by `read_picture`: upright, on white, 8 bits. An unusable file is detected when its position is
    reached, and is skipped as if it were not in the folder: batches depend on the files and the order alone, not on
    earlier reads. A file that has not changed is decoded once: what the transform gave is cached.

    Attributes:
        root: Folder.
        files: Relative paths, sorted.
        ids: 63-bit integers, a hash of each relative path: the key of an image's noise.
        labels: Class of each image; None where the folder does not determine it.
        unlabelled: Reason why there are no labels, with a remedy; empty if there are labels.
        transform: Function from a PIL image to a tensor ``(3, H, W)``; it gives the same for the same image.
        device: Device of the model; a GPU with room keeps the images and gets them from there.
    """

    root: Path
    files: tuple[str, ...]
    ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    unlabelled: str
    transform: Callable[[Image.Image], Tensor]
    device: torch.device = HOST
    # Cache of the files checked so far; it changes no result.
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

        Sub-folders named by wnids (``n01440764``) get ImageNet's 1000 labels, sub-folders named by numbers get these
        numbers. Others are labelled in the order given by `class_order`; without it, in sorted order, if there are as
        many as the model has classes and text and natural order agree. No file is read yet.

        Args:
            path: Folder.
            transform: Function from a PIL image to a tensor, such as `transform_for` returns.
            n_classes: Number of classes of the model, None if unknown.
            class_order: Order of the sub-folders' labels, ``text`` (torchvision's) or ``natural`` (timm's).

        Raises:
            UsageError: The folder or the order does not exist, or the folder has no image.
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
        """Files found to be unreadable so far."""
        return tuple(self.files[i] for i, good in sorted(self._readable.items()) if not good)

    @property
    def classes(self) -> dict[str, int]:
        """Label of each class folder; empty without labels."""
        return {} if self.labels is None else dict(zip((f.split("/")[0] for f in self.files), self.labels, strict=True))

    def order(self, seed: int) -> np.ndarray:
        """Return a permutation of all positions, which depends on the seed and the number of files alone."""
        return np.random.Generator(np.random.SFC64([seed])).permutation(len(self.files))

    def need(self, count: int) -> None:
        """Refuse a request for more images than the folder has, before any work.

        Raises:
            UsageError: The folder has fewer than ``count``.
        """
        if count > len(self.files):
            raise UsageError(
                f"--data {self.root} has {len(self.files)} images and {count} are needed; "
                f"lower --images, --batches or --batch-size, or give a larger folder"
            )

    def need_labels(self) -> None:
        """Refuse a folder without labels.

        Raises:
            UsageError: The folder does not determine the classes; the message has the reason.
        """
        if self.labels is None:
            raise UsageError(f"--loss ce needs labels but in --data {self.root} {self.unlabelled}")

    def take(self, order: Iterable[int], start: int, size: int) -> Images:
        """Return images ``start .. start + size`` of the readable ones in ``order``.

        An unreadable file is skipped and all later ones move up, so that no image is repeated and the result does not
        depend on earlier calls. Files before ``start`` are decoded once, to know whether they are readable.

        Args:
            order: Positions, possibly endless.
            start: Number of readable images to skip.
            size: Number of images to read, at least 1.

        Raises:
            UsageError: The order has too few images, though every file is readable.
            GradprobeError: The order has too few readable images, or none.
        """
        positions = iter(order)
        passed, misses, listed = 0, 0, 0
        indices: list[int] = []
        images: list[Tensor] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            while len(images) < size:
                chunk = [int(i) for i in islice(positions, start - passed or size - len(images))]
                if passed < start:
                    hits = sum(self._check(chunk, pool))
                    passed += hits
                else:
                    pairs = [(i, x) for i, x in zip(chunk, self._pictures(chunk, pool), strict=True) if x is not None]
                    indices += [i for i, _ in pairs]
                    images += [x for _, x in pairs]
                    hits = len(pairs)
                listed += len(chunk)
                misses = 0 if hits else misses + len(chunk)
                if not chunk or misses >= len(self.files):
                    raise self._too_few(start + size, listed)
        labels = None if self.labels is None else torch.tensor([self.labels[i] for i in indices])
        return Images(torch.stack(images), labels, tuple(self.ids[i] for i in indices))

    def _check(self, chunk: Sequence[int], pool: ThreadPoolExecutor) -> list[bool]:
        unknown = [i for i in chunk if i not in self._readable]
        for _ in pool.map(self._decode, unknown):
            pass
        return [self._readable[i] for i in chunk]

    def _pictures(self, chunk: Sequence[int], pool: ThreadPoolExecutor) -> list[Tensor | None]:
        """Return the tensor of each file; None for one that cannot be read."""
        keys = [self._key(i) for i in chunk]
        pictures = prepared(keys, lambda at: pool.map(self._read, [chunk[i] for i in at]), self.device)
        self._readable.update((i, True) for i, picture in zip(chunk, pictures, strict=True) if picture is not None)
        return [None if picture is None else picture[0] for picture in pictures]

    def _key(self, index: int) -> Hashable | None:
        """Return what decides the tensor of a file; None if it was unreadable, or changed a moment ago."""
        if self._readable.get(index) is False or not isinstance(self.transform, Hashable):
            return None
        path = self.root / self.files[index]
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        quiet = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > RACY_NS
        return (self.transform, str(path), *stamp(status)) if quiet else None

    def _read(self, index: int) -> Picture | None:
        image = self._decode(index)
        return None if image is None else (self.transform(image),)

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

    def _too_few(self, count: int, listed: int) -> GradprobeError:
        bad = self.skipped
        if not bad:
            return UsageError(f"--data {self.root}: {count} images are needed and the order has {listed}; use fewer")
        if len(bad) == len(self.files):
            return GradprobeError(
                f"none of the {len(bad)} images in {self.root} can be read, {bad[0]} for one; give others"
            )
        problem = f"{len(bad)} of the {len(self.files)} images in {self.root} cannot be read ({bad[0]} for one)"
        advice = "lower --images, --batches or --batch-size, or give others"
        return GradprobeError(f"{problem}, too many for {count}; {advice}")


def transform_for(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """Return timm's evaluation preprocessing for a model, at the model's own image size."""
    config = dict(resolve_model_data_config(model))
    size: Any = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        config["input_size"] = (3, *size)
    return create_transform(**config, is_training=False)


def image_id(file: str) -> int:
    """Return a 63-bit hash of a relative path, the same on any machine.

    Example:
        >>> image_id("n01440764/a.jpg") == image_id("n01440764/a.jpg") != image_id("n01440764/b.jpg")
        True
    """
    # NFC: file systems encode accents differently.
    name = unicodedata.normalize("NFC", file).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1

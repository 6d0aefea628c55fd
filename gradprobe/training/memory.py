"""Micro-batches by memory: their size to begin with, and its halving where memory runs out."""

import gc
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from gradprobe.devices import free_memory
from gradprobe.errors import GradprobeError, Notice, out_of_memory

CPU, OTHERS = 8, 64  # images in an encoder call: on a CPU 8 fit the cache; on a GPU whose memory is not known
MANY = 16
CACHE = 1 << 18  # numbers of a micro-batch's tokens that fit it
MOST = 512
SHARE = 0.5  # of the free memory; the rest is for kept pictures, workspaces and the error of the estimate
TOKEN_BYTES = 12 * 10 * 768 * 4  # of a training step: a frozen block keeps 10 numbers a channel (counted on timm's)

Result = TypeVar("Result")


class OutOfMemory(GradprobeError):
    """Work that does not fit in memory with a single image at a time."""


@dataclass
class Limit:
    """Largest micro-batch that memory holds, as found by running out of it; keep one for as long as work is alike.

    Attributes:
        rows: Images of a micro-batch; None: memory was never full.
        unit: Number that the images of every micro-batch are a multiple of.
    """

    rows: int | None = None
    unit: int = 1
    _told: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def allows(self, rows: int) -> int:
        """Return so many images, or fewer if memory was full before."""
        return rows if self.rows is None else min(rows, self.rows)

    def halve(self, rows: int, device: torch.device) -> None:
        """Lower the limit below a number of images that did not fit: a unit times a power of two; free what is unused.

        Raises:
            OutOfMemory: It was a single image.
        """
        if rows <= self.unit:
            images = "one image" if rows == 1 else f"{rows} images"
            remedy = "give --workers 1" if device.type == "cpu" else "give a --device with more memory"
            remedies = f"{remedy}, smaller images, or --dtype bfloat16"
            raise OutOfMemory(f"{device} ran out of memory with {images} at a time; {remedies}")
        with self._lock:
            self.rows = self.allows(self.unit << (-(-rows // self.unit) - 1).bit_length() - 1)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def tell(self, device: torch.device) -> None:
        """Say once that the limit was lowered, by a `Notice`."""
        with self._lock:
            told, self._told = self._told, self.rows is not None
        if self.rows is not None and not told:
            images = "one image" if self.rows == 1 else f"{self.rows} images"
            warnings.warn(f"{device} ran out of memory; the work goes on with {images} at a time", Notice, stacklevel=3)


@cache
def rows_for(device: torch.device, tokens: int, token_bytes: int = TOKEN_BYTES) -> int:
    """Return the images of a micro-batch to begin with: 8 on a CPU, on a GPU a power of two that should fit.

    On a GPU half of the memory that is free at the first call is divided by an estimate for one image; where the
    estimate is too low, the micro-batch is halved later. The number stays the same for the life of the process.

    Args:
        device: Device of the frozen model.
        tokens: Tokens of an image.
        token_bytes: Memory of a training step for each token; by default that of a ViT-Base in float32.

    Example:
        >>> rows_for(torch.device("cpu"), 196)
        8
    """
    if device.type != "cuda":
        return CPU if device.type == "cpu" else OTHERS
    fit = int(SHARE * free_memory(device) / (tokens * token_bytes))
    return 1 << max(1, min(fit, MOST)).bit_length() - 1


def training_rows(patches: Tensor) -> int:
    """Return the images of a training's micro-batch: on a CPU 8, or more where they are small; else `rows_for`.

    Measured on one thread: a step of 32 images of 100 tokens of width 128 takes a tenth less time by 16 than by 8, one
    of 196 tokens of width 192 an eighth less by 8 than by 16.

    Args:
        patches: Tokens of a batch, ``(B, N, D)``.

    Example:
        >>> training_rows(torch.zeros(1, 196, 192)), training_rows(torch.zeros(1, 100, 128))
        (8, 16)
    """
    _, tokens, width = patches.shape
    if patches.device.type != "cpu":
        return rows_for(patches.device, tokens)
    fit = max(1.0, CACHE / max(1, tokens * width))
    return min(max(CPU, 1 << round(math.log2(fit))), MANY)  # not so many that a thread has none


def halving(work: Callable[[int], Result], rows: int, device: torch.device, limit: Limit | None = None) -> Result:
    """Return ``work(rows)``; where memory runs out, it begins anew with half as many images at a time.

    Args:
        work: Function of the number of images at a time.
        rows: That number to begin with.
        device: Device of the work.
        limit: Limit known from earlier work; None: there was none.

    Raises:
        OutOfMemory: A single image does not fit.

    Example:
        >>> halving(lambda rows: [rows] * (8 // rows), 4, torch.device("cpu"))
        [4, 4]
    """
    limit = limit or Limit()
    while True:
        rows = limit.allows(rows)
        try:
            result = work(rows)
        except Exception as error:  # torch and numpy raise several kinds
            if not out_of_memory(error) or isinstance(error, OutOfMemory):
                raise
        else:
            limit.tell(device)
            return result
        limit.halve(rows, device)  # only here are the frames of the error and their tensors gone

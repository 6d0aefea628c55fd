"""Keyed noise: what an operator asks for its random numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from math import isfinite, prod
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from gradprobe.errors import UsageError, in_words, nearest
from gradprobe.noise import host, philox_numbers
from gradprobe.noise.philox_bits import MOST

HOST, PHILOX = "host", "philox"
GENERATORS = {HOST: host, PHILOX: philox_numbers}


class Stream(IntEnum):
    """Independent sources of random numbers within one draw, one for each use.

    The values are part of the random numbers and so of every stored answer: they never change. `RANKING` shares its
    number with `SMOOTHING`, and no probe uses both.
    """

    RELAXATION = 0
    THROTTLE = 1
    SMOOTHING = 2  # Gaussian perturbations of the scores, for the smoothed objective of fidelity
    RANKING = 2  # random ranking, a floor that trained scorers are compared with
    FIDELITY_SCORES = 3  # random scores at which fidelity is measured
    VALIDATION = 7  # random selection that a pruner is compared with during training
    EQUIVALENCE_SCORES = 1_000  # random scores of equivalence


@dataclass(frozen=True)
class Noise:
    """Random numbers keyed by (seed, image id, draw): the same for an image in any batch, order, worker or device.

    ``noise.draw(r)`` is the r-th independent copy, ``noise.stream(Stream.THROTTLE)`` an independent source for one use
    within the same draw, so that a relaxation and a throttle never share numbers.

    Two generators make the numbers. ``host`` (SFC64 seeded with a hash of the key) runs on the CPU and sends its
    numbers to the device of ``like``. ``philox`` (Philox4x64-10, which maps key and counter to bits) runs where the
    numbers are used: the bits are the same on every device, the numbers equal up to the last place of logarithm and
    cosine. The two give different numbers of the same distributions.

    Attributes:
        seed: Non-negative integer; or one for each image, where images of several seeds share a batch.
        ids: One non-negative integer per image (B of them), below 2^64.
        index: Number of the draw.
        source: Number of the stream, one of `Stream`.
        generator: ``host`` or ``philox``.

    Example:
        >>> one = Noise(0, (7, 8, 9)).normal((4,))
        >>> other = Noise(0, (9, 7)).normal((4,))
        >>> bool((one[2] == other[0]).all() and (one[0] == other[1]).all())
        True

    Source: Philox: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """

    seed: int | Sequence[int]
    ids: Sequence[int]
    index: int = 0
    source: int = 0
    generator: str = HOST

    def __post_init__(self) -> None:
        if self.generator not in GENERATORS:
            raise UsageError(
                f"no generator of noise is called {self.generator!r}; {nearest(self.generator, GENERATORS)}"
            )
        if isinstance(self.seed, Integral):  # numpy's too
            object.__setattr__(self, "seed", int(self.seed))
        for name, value in (("seed", () if isinstance(self.seed, int) else self.seed), ("ids", self.ids)):
            if not hasattr(value, "__len__"):
                raise UsageError(f"{name}={in_words(value)} is no key of noise; give whole numbers: Noise(0, (7, 8))")
        if not isinstance(self.seed, int) and len(self.seed) != len(self.ids):
            raise UsageError(f"{len(self.seed)} seeds for {len(self.ids)} images; give one seed, or one for each image")

    def draw(self, r: int) -> "Noise":
        """Return the r-th independent copy of this noise."""
        return replace(self, index=r)

    def stream(self, source: int) -> "Noise":
        """Return an independent source of numbers within the same draw: one of `Stream`."""
        return replace(self, source=int(source))

    def normal(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw standard Gaussian numbers, ``(B, *shape)``, with the dtype and device of ``like``."""
        return self._made("normal", shape, like)

    def uniform(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw uniform numbers in (0, 1), both ends excluded, ``(B, *shape)``."""
        return self._made("uniform", shape, like)

    def gumbel(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw standard Gumbel numbers ``-log(-log u)``, ``(B, *shape)``."""
        return self._made("gumbel", shape, like)

    def gamma(self, concentration: float, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw gamma numbers of this concentration and scale 1, ``(B, *shape)``.

        Raises:
            UsageError: The concentration is not a finite number above 0.
        """
        if not (isfinite(concentration) and concentration > 0):
            raise UsageError(f"there are no gamma numbers of concentration {concentration}; give one above 0")
        return self._made("gamma", shape, like, concentration)

    def _made(self, kind: str, shape: Sequence[int], like: Tensor | None, *parameters: float) -> Tensor:
        device, dtype = (torch.device("cpu"), torch.float32) if like is None else (like.device, like.dtype)
        if not dtype.is_floating_point:
            raise UsageError(f"there is no noise of {dtype}; give like= of a floating-point type")
        keys, counter = self._keys(), (_whole(self.index), int(self.source))
        if not keys:
            return torch.empty(0, *shape, dtype=dtype, device=device)
        numbers = GENERATORS[self.generator].numbers(kind, keys, counter, prod(shape), device, *parameters)
        made = numbers.reshape(len(keys), *shape).to(dtype)
        if kind == "uniform":  # rounded to fewer digits, a number next to an end would be the end
            kept = torch.finfo(made.dtype)
            made = made.clamp(kept.tiny, 1 - kept.eps / 2)
        return made

    def _keys(self) -> list[tuple[int, int]]:
        """Return seed and id of each image."""
        ids = [_whole(image) for image in self.ids]
        seeds = [_whole(self.seed)] * len(ids) if isinstance(self.seed, int) else [_whole(seed) for seed in self.seed]
        return list(zip(seeds, ids, strict=True))


def _whole(value: Any) -> int:
    """Return a part of a key as an integer; a fraction is refused, since rounding would give two images one noise."""
    try:
        number = int(value.__index__())
    except (AttributeError, TypeError):
        number = -1
    if not 0 <= number < MOST:
        raise UsageError(
            f"noise cannot be keyed by {in_words(value)}; seeds, image ids and draws are whole numbers, 0 to 2^64 - 1"
        )
    return number

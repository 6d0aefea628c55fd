"""Numbers from the bits of Philox, by the same operations of torch on every device."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradprobe.noise.gamma_quantile import quantile
from gradprobe.noise.philox_bits import Key, words

KINDS = {"normal": 0, "uniform": 1, "gumbel": 2, "gamma": 3}  # the counter's last word: never changed
SIGNLESS = 0x7FFFFFFF


def numbers(
    kind: str, keys: Sequence[Key], counter: tuple[int, int], count: int, device: torch.device, *parameters: float
) -> Tensor:
    """Return random numbers ``(B, count)`` on a device, float32 (gamma: float64).

    Args:
        kind: One of `KINDS`.
        keys: Seed and id of each image.
        counter: Draw and stream.
        count: Numbers for each image.
        device: Where they are made.
        parameters: Of the distribution.
    """
    size = max(1, (count + 1) // 2)
    bits = words(keys, (*counter, KINDS[kind]), size, device).view(torch.int32)
    made = OF_BITS[kind](bits, *parameters)
    return made if count == 2 * size else made[:, :count]


def _normal(bits: Tensor) -> Tensor:
    """Return two Gaussian numbers for two halves (Box and Muller): 31 bits for the radius, 32 for the angle."""
    radius = _share(bits[:, 0::2], torch.float32).log_().mul_(-2).sqrt_()
    angle = bits[:, 1::2].to(torch.float32).mul_(math.pi * 2.0**-31)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)


def _uniform(bits: Tensor) -> Tensor:
    """Return the middles of 2^23 equal parts of (0, 1): each is a float32, exactly."""
    return ((bits >> 9) & 0x7FFFFF).to(torch.float32).add_(0.5).mul_(2.0**-23)


def _gumbel(bits: Tensor) -> Tensor:
    """Return ``-log(-log(1 - u))``: u is fine near 0, where the largest numbers come from."""
    return _share(bits, torch.float32, -1.0).clamp_(min=2.0**-24 - 1).log1p_().neg_().log_().neg_()


def _gamma(bits: Tensor, concentration: float) -> Tensor:
    """Return gamma numbers, by the inverse of their distribution function."""
    return quantile(concentration, bits.device)(_share(bits, torch.float64))


def _share(bits: Tensor, dtype: torch.dtype, sign: float = 1.0) -> Tensor:
    """Return numbers in (0, 1], times a sign, from 31 bits; they are fine near 0."""
    return (bits & SIGNLESS).to(dtype).add_(1).mul_(sign * 2.0**-31)


OF_BITS: dict[str, Callable[..., Tensor]] = {"normal": _normal, "uniform": _uniform, "gumbel": _gumbel, "gamma": _gamma}

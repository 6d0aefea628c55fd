"""Random bits of Philox4x64-10: four 64-bit words from a key of two and a counter of four, the same on every device.

The key is (seed, image id), the counter (block, draw, stream, kind of number); blocks count from 1, as numpy does.
On a CPU numpy's own Philox makes the words image by image, twenty times as fast as integer operations of torch; on a
GPU one Triton kernel makes those of all images, elsewhere integer operations of torch do.
"""

import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gradprobe.errors import Notice

Key = tuple[int, int]  # seed and id of an image
Tail = tuple[int, int, int]  # draw, stream and kind: the last three words of the counter
MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
ROUNDS = 10
LOW = 0xFFFFFFFF
MOST = 1 << 64


def words(keys: Sequence[Key], tail: Tail, count: int, device: torch.device) -> Tensor:
    """Return random words ``(B, count)`` as int64 on a device.

    Args:
        keys: Seed and id of each image.
        tail: Draw, stream and kind.
        count: Words for each image.
        device: Where they are made.

    Example:
        >>> first = words([(0, 7), (0, 8)], (0, 0, 0), 6, torch.device("cpu"))
        >>> torch.equal(first[1:], words([(0, 8)], (0, 0, 0), 6, torch.device("cpu")))
        True
    """
    if device.type == "cpu":
        return _on_cpu(keys, tail, count)
    blocks = -(-count // 4)
    rows = torch.from_numpy(np.array(keys, np.uint64).reshape(len(keys), 2).view(np.int64)).to(
        device, non_blocking=True
    )
    make = _by_kernel if device.type == "cuda" and _kernel_agrees(device) else by_torch
    return make(rows, tail, blocks).flatten(1)[:, :count]


def by_torch(keys: Tensor, tail: Tail, blocks: int) -> Tensor:
    """Return the words ``(B, blocks, 4)`` for keys ``(B, 2)``, in integer operations of torch on any device."""
    b, device = len(keys), keys.device
    first = torch.arange(1, blocks + 1, device=device).expand(b, blocks)
    c0, c1, c2, c3 = first, *(torch.full_like(first, _signed(word)) for word in tail)
    k0, k1 = keys[:, :1], keys[:, 1:]
    for _ in range(ROUNDS):
        high0, low0 = _product(c0, MULTIPLIERS[0])
        high1, low1 = _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _signed(WEYL[0]), k1 + _signed(WEYL[1])
    return torch.stack([c0, c1, c2, c3], -1)


def _on_cpu(keys: Sequence[Key], tail: Tail, count: int) -> Tensor:
    counter = np.array([0, *tail], np.uint64)
    rows = np.empty((len(keys), count), np.uint64)
    for row, key in enumerate(np.array(keys, np.uint64).reshape(-1, 2)):
        rows[row] = np.random.Philox(key=key, counter=counter).random_raw(count)
    return torch.from_numpy(rows.view(np.int64))


def _by_kernel(keys: Tensor, tail: Tail, blocks: int) -> Tensor:
    from gradprobe.noise.philox_kernel import launch

    return launch(keys, tail, blocks)


@cache
def _kernel_agrees(device: torch.device) -> bool:
    """Tell whether the kernel can be used on a device: it runs there, and gives the bits of `by_torch`."""
    keys = torch.tensor([[3, 1], [-1, 1 << 62]], device=device)
    try:
        agrees = torch.equal(_by_kernel(keys, (1 << 40, 1, 2), 1_000), by_torch(keys, (1 << 40, 1, 2), 1_000))
        reason = "its bits differ"
    except Exception as error:  # no Triton, no compiler, a GPU that it does not know
        agrees, reason = False, f"{type(error).__name__}: {error}".splitlines()[0]
    if not agrees:
        warnings.warn(Notice(f"noise is made without its GPU kernel, more slowly ({reason})"), stacklevel=2)
    return agrees


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of the 128-bit product of unsigned words with a constant."""
    x0, x1, f0, f1 = x & LOW, (x >> 32) & LOW, factor & LOW, factor >> 32
    p10, p01 = x1 * f0, x0 * f1
    middle = ((x0 * f0 >> 32) & LOW) + (p10 & LOW) + (p01 & LOW)
    return x1 * f1 + ((p10 >> 32) & LOW) + ((p01 >> 32) & LOW) + (middle >> 32), x * _signed(factor)


def _signed(word: int) -> int:
    """Return the int64 with the bits of an unsigned word."""
    return word - MOST if word >= MOST >> 1 else word

"""Speed of one call of an operator, relaxation or throttle on this machine."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.training.workers import one_thread

SIZE = (32, 196, 58, 192)  # B, N, K, D: DeiT-Tiny at 30 %
CALLS = 5
ENOUGH = 0.25  # seconds after which no further call is timed

Kind = Literal["relaxation", "throttle", "operator"]


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a call and of its backward, None without a gradient."""

    forward: float
    backward: float | None


def speed_of(kind: Kind, thing: Any) -> Speed:
    """Return the median time of a few calls with B = 32, N = 196, K = 58, D = 192, on one thread, after a warm-up.

    Args:
        kind: Kind of the callable.
        thing: Relaxation, throttle or operator.

    Example:
        >>> from gradprobe import build
        >>> speed_of("operator", build("vpnoise")).forward > 0
        True
    """
    b, n, k, d = SIZE
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(b, n, d, generator=generator)
    scores = torch.randn(b, n, generator=generator)
    noise = Noise(0, range(b))
    forward: list[float] = []
    backward: list[float] = []
    started = time.perf_counter()
    with one_thread():
        while len(forward) <= CALLS and not (len(forward) > 1 and time.perf_counter() - started > ENOUGH):
            leaf = (scores.softmax(-1) if kind == "throttle" else scores).clone().requires_grad_()
            start = time.perf_counter()
            out: Any = thing(leaf, k, noise) if kind == "relaxation" else thing(patches, leaf, k, noise)
            forward.append(time.perf_counter() - start)
            total = _total(out)
            if total.requires_grad:
                start = time.perf_counter()
                total.backward()
                backward.append(time.perf_counter() - start)
    return Speed(1e3 * median(forward[1:]), 1e3 * median(backward[1:]) if backward else None)


def _total(out: Any) -> Tensor:
    """Return a sum through which every part has a gradient."""
    if isinstance(out, Tensor):
        return out.sum()
    parts = (out.tokens, out.key_bias, out.penalty, out.log_prob)
    return torch.stack([part.sum() for part in parts if part is not None]).sum()

"""Times on a device: CUDA events around each call on a GPU, the clock on a CPU."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 3


def milliseconds(call: Callable[[], Any], device: str, repeats: int, warm_up: int = WARM_UP) -> float:
    """Return the median of the milliseconds that a call takes."""
    for _ in range(warm_up):
        call()
    if device != "cuda":
        return statistics.median(1000 * seconds(call, device) for _ in range(repeats))
    pairs = [(_event(), _event()) for _ in range(repeats)]
    torch.cuda.synchronize()
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Return the seconds by the clock until a call has ended on the device too."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_flops(device: str, side: int, repeats: int = 10) -> float:
    """Measure the bfloat16 multiply-adds of a square matrix product, 2 each, in a second."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / (milliseconds(lambda: a @ b, device, repeats) / 1000)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)

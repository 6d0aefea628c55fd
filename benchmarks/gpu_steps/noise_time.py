"""Time that operators and probes spend on random numbers, on the host and on the device."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from gradprobe.core import Noise

KINDS = ("normal", "uniform", "gumbel", "gamma")


@dataclass
class NoiseTime:
    """Seconds of all calls: of the host's clock, and between CUDA events around them.

    Attributes:
        host: Seconds of the host.
        calls: Number of calls.
        events: Pairs of CUDA events.
    """

    host: float = 0.0
    calls: int = 0
    events: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def device(self) -> float:
        """Seconds of the device; 0 on a CPU."""
        if self.events:
            torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self.events) / 1000

    @property
    def seconds(self) -> float:
        """Seconds of the host or of the device, whichever is more: the two run at the same time."""
        return max(self.host, self.device)


@contextmanager
def noise_timed(device: str) -> Iterator[NoiseTime]:
    """Time every call for random numbers meanwhile; with torch on one thread, as calls of threads are added."""
    total = NoiseTime()

    def timed(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*arguments: Any, **named: Any) -> Any:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []
            began = time.perf_counter()
            if marks:
                marks[0].record()
            numbers = draw(*arguments, **named)
            if marks:
                marks[1].record()
                total.events.append((marks[0], marks[1]))
            total.host += time.perf_counter() - began
            total.calls += 1
            return numbers

        return drawn

    with mock.patch.multiple(Noise, **{kind: timed(getattr(Noise, kind)) for kind in KINDS}):
        yield total

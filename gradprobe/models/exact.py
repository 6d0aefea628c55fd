"""Convolutions in float32 on a GPU: cuDNN rounds their inputs to TF32, 10 bits, unless it is told not to."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_lock, _depth = Lock(), 0
_before: tuple[str, ...] | bool = True


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Keep cuDNN from rounding float32 to TF32 meanwhile; its setting comes back with the last of several users.

    Without a GPU in use nothing is touched.
    """
    global _depth, _before
    if not torch.cuda.is_initialized():
        yield
        return
    with _lock:
        _depth += 1
        if _depth == 1:
            _before = _settings()
            _set(False if isinstance(_before, bool) else ("ieee", "ieee"))
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _set(_before)


def _settings() -> tuple[str, ...] | bool:
    """Return cuDNN's permission to use TF32, or the precisions of a caller who set each operation's own."""
    cudnn: Any = torch.backends.cudnn
    try:
        return cudnn.allow_tf32
    except RuntimeError:  # since torch 2.9, where they are not both what the old setting makes of them
        return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


def _set(settings: tuple[str, ...] | bool) -> None:
    cudnn: Any = torch.backends.cudnn
    if isinstance(settings, bool):
        cudnn.allow_tf32 = settings
    else:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = settings

"""Precision of training on a CPU, chosen by timing: bfloat16 is fast only where the CPU supports it."""

import time
from collections.abc import Callable
from typing import Any

import torch

from gradprobe.errors import UsageError, nearest

PRECISIONS = ("float32", "bfloat16")
AUTO = "auto"


def check_precision(name: str) -> None:
    """Refuse a name that is no precision.

    Raises:
        UsageError: The name is neither ``auto`` nor one of `PRECISIONS`.
    """
    if name not in (AUTO, *PRECISIONS):
        raise UsageError(f"--precision {name} is not possible; {nearest(name, (AUTO, *PRECISIONS))}")


def check_same_precision(precision: str, saved: str) -> None:
    """Refuse to resume a training in another precision.

    Raises:
        UsageError: The precisions differ.
    """
    if precision not in (AUTO, saved):
        raise UsageError(
            f"the checkpoint was begun in {saved}, not {precision}; leave --precision out to go on from it, or pass "
            "--restart to begin anew"
        )


def autocast(precision: str) -> torch.autocast:
    """Return a context in which matrix products run in a precision; weights and sums stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def seconds_by_precision(
    step: Callable[[str], Any], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Time a training step in each precision: the shorter of two runs, after a warm-up.

    Args:
        step: Function of a name of `PRECISIONS`, without side effects.
        clock: Function that returns the time.

    Example:
        >>> now = iter([0.0, 3.0, 3.0, 5.0, 5.0, 6.0, 6.0, 10.0])
        >>> seconds_by_precision(lambda precision: None, lambda: next(now))
        {'float32': 2.0, 'bfloat16': 1.0}
    """
    seconds = {}
    for precision in PRECISIONS:
        step(precision)
        times = []
        for _ in range(2):
            began = clock()
            step(precision)
            times.append(clock() - began)
        seconds[precision] = min(times)
    return seconds


def choose(precision: str, saved: str | None, step: Callable[[str], Any]) -> tuple[str, str]:
    """Choose the precision of a training: that of its checkpoint, the one asked for, or the faster one.

    Args:
        precision: ``auto`` or a name of `PRECISIONS`.
        saved: Precision of the checkpoint to resume from; None: there is none.
        step: Training step as `seconds_by_precision` takes it; called only if nothing else decides.

    Returns:
        The precision, and a line with the reason.

    Raises:
        UsageError: The name is unknown, or differs from the checkpoint's.

    Example:
        >>> choose("float32", None, print), choose("auto", "bfloat16", print)
        (('float32', 'precision: float32, as asked'), ('bfloat16', 'precision: bfloat16, as the checkpoint has it'))
    """
    check_precision(precision)
    if saved is not None:
        check_same_precision(precision, saved)
        return saved, f"precision: {saved}, as the checkpoint has it"
    if precision != AUTO:
        return precision, f"precision: {precision}, as asked"
    seconds = seconds_by_precision(step)
    fast, slow = sorted(seconds, key=lambda name: seconds[name])
    return (
        fast,
        f"precision: {fast}, the faster one here ({seconds[fast]:.3g} s against {seconds[slow]:.3g} s in {slow})",
    )

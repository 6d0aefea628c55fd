"""Arithmetic in which a model is trained on a CPU, chosen by timing: bfloat16 is fast only where the CPU has it."""

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
        UsageError: neither ``auto`` nor one of `PRECISIONS`.
    """
    if name not in (AUTO, *PRECISIONS):
        raise UsageError(f"--precision {name} is not possible; {nearest(name, (AUTO, *PRECISIONS))}")


def check_same_precision(asked: str, saved: str) -> None:
    """Refuse to go on in another precision than a training began in.

    Raises:
        UsageError: it began in another.
    """
    if asked not in (AUTO, saved):
        raise UsageError(
            f"the checkpoint was begun in {saved}, not {asked}; leave --precision out to go on from it, or pass "
            "--restart to begin anew"
        )


def autocast(precision: str) -> torch.autocast:
    """Matrix products in this precision inside; weights and sums stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def seconds_by_precision(
    step: Callable[[str], Any], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Time a step of training in each precision: the shorter of two, after one that is not timed.

    Args:
        step: called with a name of `PRECISIONS`; it leaves nothing behind.
        clock: the time now.

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


def chosen(asked: str, saved: str | None, step: Callable[[str], Any]) -> tuple[str, str]:
    """Choose the precision of a training: that of its checkpoint, what was asked for, or the faster one.

    Args:
        asked: ``auto`` or a name of `PRECISIONS`.
        saved: of the checkpoint that the training goes on from; None: it begins anew.
        step: as `seconds_by_precision` takes it; called only if nothing else decides.

    Returns:
        The precision, and a line that says why.

    Raises:
        UsageError: an unknown name, or another than the checkpoint's.

    Example:
        >>> chosen("float32", None, print), chosen("auto", "bfloat16", print)
        (('float32', 'precision: float32, as asked'), ('bfloat16', 'precision: bfloat16, as the checkpoint has it'))
    """
    check_precision(asked)
    if saved is not None:
        check_same_precision(asked, saved)
        return saved, f"precision: {saved}, as the checkpoint has it"
    if asked != AUTO:
        return asked, f"precision: {asked}, as asked"
    seconds = seconds_by_precision(step)
    fast, slow = sorted(seconds, key=lambda name: seconds[name])
    return (
        fast,
        f"precision: {fast}, the faster one here ({seconds[fast]:.3g} s against {seconds[slow]:.3g} s in {slow})",
    )

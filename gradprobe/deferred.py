"""Checks of values on a GPU that do not wait for it: inside `deferring` an error comes a little later, but it comes."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from gradprobe.errors import GradprobeError

MakeError = Callable[[Tensor], Exception]  # from the mask, on the CPU

MOST = 256  # checks that a device without events may be behind, so that their masks do not pile up


def refuse(bad: Tensor, error: MakeError) -> None:
    """Raise an error if a mask is true anywhere: at once on a CPU and outside of `deferring`, else without waiting.

    Args:
        bad: Mask of any shape, on any device.
        error: Function from the mask, on the CPU, to the error; called only if there is one.

    Example:
        >>> refuse(torch.tensor([False, True]), lambda bad: ValueError(f"{int(bad.sum())} of {len(bad)}"))
        Traceback (most recent call last):
        ValueError: 1 of 2
    """
    checks = None if bad.device.type == "cpu" else _current()
    if checks is not None:
        checks.add(bad, error)
    elif bool(bad.any()):
        raise error(bad.cpu())


@contextmanager
def deferring() -> Iterator[None]:
    """Let the checks of a GPU's values inside be made once it has computed them, at the latest at the end.

    Of several errors the first check's is raised, also where what follows from a bad value raised another one. Enter it
    around a loop, never inside a generator, whose caller would defer as well.
    """
    checks = _Checks()
    token = _CHECKS.set(checks)
    _OPEN.append(checks)
    try:
        yield
        checks.settle()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if (first := checks.first_error()) is not None:
            raise first from error
        raise
    finally:
        _OPEN.remove(checks)
        _CHECKS.reset(token)


def settle() -> None:
    """Wait for the checks made so far, before something that depends on them is written to disk."""
    checks = _CHECKS.get()
    if checks is not None:
        checks.settle()


@dataclass(frozen=True, eq=False)
class _Check:
    """Check whose outcome is on its way.

    Attributes:
        bad: Mask on the device.
        error: Function from the mask to the error.
        flag: Outcome, in pinned memory of the host where ``event`` says when it is there, else on the device.
        event: Event behind the copy; None for a device without events.
    """

    bad: Tensor
    error: MakeError
    flag: Tensor
    event: Any

    @classmethod
    def of(cls, bad: Tensor, error: MakeError) -> "_Check":
        """Ask for the outcome of a check; nothing waits."""
        flag = bad.any()
        if flag.device.type != "cuda":
            return cls(bad, error, flag, None)
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(flag, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(flag.device))
        return cls(bad, error, host, event)


class _Checks:
    """Checks of one `deferring` block, in their order; several threads may add some."""

    def __init__(self) -> None:
        self._waiting: deque[_Check] = deque()
        self._lock = Lock()

    def add(self, bad: Tensor, error: MakeError) -> None:
        """Add a check, and raise the error of an earlier one whose outcome has arrived."""
        check, ready = _Check.of(bad, error), []
        with self._lock:
            self._waiting.append(check)
            while self._waiting and (first := self._waiting[0]).event is not None and first.event.query():
                ready.append(self._waiting.popleft())
            behind = len(self._waiting) > MOST and check.event is None
        self._raise_first(ready)
        if behind:
            self.settle()

    def settle(self) -> None:
        """Wait for all checks, and raise the first error."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for check in waiting:
            if check.event is not None:
                check.event.synchronize()
        self._raise_first(waiting)

    def first_error(self) -> Exception | None:
        """Return the error of the first check that fails; None if none does, or the device no longer answers."""
        try:
            self.settle()
        except GradprobeError as error:
            return error
        except RuntimeError:
            return None
        return None

    def _raise_first(self, checks: list[_Check]) -> None:
        """Raise the error of the first failed check, whose outcomes are known or may be waited for."""
        if not checks:
            return
        flags = torch.stack([check.flag.to(checks[0].flag.device) for check in checks]).tolist()
        for check, failed in zip(checks, flags, strict=True):
            if failed:
                with self._lock:
                    self._waiting.clear()  # later checks fail because of this one, if at all
                raise check.error(check.bad.cpu())


_CHECKS: ContextVar[_Checks | None] = ContextVar("checks", default=None)
_OPEN: list[_Checks] = []  # in the order in which they were entered


def _current() -> _Checks | None:
    """Return the block that this code runs in.

    The backward pass of a GPU runs in threads of torch that inherit no context: there it is the last one entered.
    """
    checks = _CHECKS.get()
    if checks is None and _OPEN and torch._C._current_graph_task_id() != -1:
        return _OPEN[-1]
    return checks

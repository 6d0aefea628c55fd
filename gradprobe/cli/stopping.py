"""Termination signals, handled like Ctrl-C so that nothing is left half-written."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # sent by kill and batch systems, and by a terminal that closes


class Stopped(KeyboardInterrupt):
    """Termination by a signal.

    Attributes:
        code: Exit code by the convention of shells, 128 + the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[list[Stopped]]:
    """Raise `Stopped` at the first termination signal; a second signal ends the program at once.

    Yields:
        List that receives the signal, for callers in which the exception has been replaced by another.
    """
    received: list[Stopped] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(Stopped(number))
        raise received[-1]

    before = {}
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup SIGHUP is ignored
            before[number] = signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

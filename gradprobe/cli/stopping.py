"""Signals that ask a program to end: they stop it as Ctrl-C does, so that nothing is left half-written."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # of kill and batch systems; of a terminal that was closed


class Stopped(KeyboardInterrupt):
    """A signal that asked the program to end.

    Attributes:
        code: what a shell calls a program that this signal ended, 128 + its number.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[list[Stopped]]:
    """Raise `Stopped` at the first of these signals; a second one ends the program at once, as it would anyway.

    Yields:
        The signal that came, for what turns the exception into another on its way; empty until then.
    """
    received: list[Stopped] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(Stopped(number))
        raise received[-1]

    before = {}
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has said to ignore SIGHUP
            before[number] = signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Locks between processes, released by the system when their holder ends, however it ends.

Where the system or the file system has no locks, work goes on without them.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from gradprobe.errors import GradprobeError

try:
    import fcntl
except ImportError:  # not a Unix: nothing keeps two processes from doing the same work
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"  # the file that is locked in a folder of work
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_ATTEMPTS = 100  # at a lock that others take and leave meanwhile
_PATIENCE = 10.0  # seconds; what is done under a folder's lock takes milliseconds


class Busy(GradprobeError):
    """Work that another process is at."""


@contextmanager
def claimed(folder: Path, work: str, name: str = LOCK) -> Iterator[None]:
    """Keep a piece of work to this process while the block lasts; shows on the way that its folder can be written.

    Args:
        folder: of the work; made if need be, and then removed afterwards if it is empty.
        work: words for it that begin a sentence.
        name: of the lock's file in it.

    Raises:
        Busy: another process is at it; the message says which, where, since when, and how to end it.
        OSError: the folder cannot be written.
    """
    path = folder / name
    descriptor, made = _locked(folder, path, work)
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(about).encode(), 0)
        os.fsync(descriptor)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still there
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()  # if nothing is left in it


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Keep other processes from moving names in a folder meanwhile; waits for one that does, but not for ever."""
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None and fcntl is not None:
            until = time.monotonic() + _PATIENCE
            while not _flock(descriptor) and time.monotonic() < until:
                time.sleep(0.005)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(folder: Path, path: Path, work: str) -> tuple[int, bool]:
    """The descriptor of a lock's file that is held, and is still the one of that name; whether the folder is new."""
    made = False
    for attempt in range(_ATTEMPTS):
        try:
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                made = True
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if attempt + 1 < _ATTEMPTS:  # removed between the two by the one who had it
                continue
            raise  # a link to nowhere is in the path
        if fcntl is None:
            return descriptor, made
        if not _flock(descriptor):
            message = _message(os.pread(descriptor, 1000, 0), work)
            os.close(descriptor)
            raise Busy(message)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor, made
        os.close(descriptor)
    raise Busy(_message(b"", work))


def _flock(descriptor: int) -> bool:
    """Take a lock that nobody holds; True also where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def _message(content: bytes, work: str) -> str:
    try:
        about = json.loads(content)
        pid, host, since = int(about["pid"]), str(about["host"]), str(about["since"])
    except (ValueError, KeyError, TypeError):
        return f"{work} is in another process's hands; wait for it, or stop it"
    there = "" if host == socket.gethostname() else f" on {host}"
    return (
        f"{work} is in the hands of process {pid} on {host} since {since}; wait for it, and the same command goes on "
        f"from what it did, or stop it: kill {pid}{there}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Locks between processes, released by the system when their holder ends, however it ends.

Where the system or the file system has no locks, work goes on without them.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from gradprobe.errors import GradprobeError

try:
    import fcntl
except ImportError:  # not a Unix: nothing keeps two processes from doing the same work
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"  # name of the file that is locked in a folder of work
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_ATTEMPTS = 100  # at a lock that others take and release meanwhile


class Busy(GradprobeError):
    """Work that another process is doing."""


@contextmanager
def claimed(folder: Path, work: str, name: str = LOCK) -> Iterator[None]:
    """Keep a piece of work to this process while the block lasts, having found out that its folder can be written.

    Args:
        folder: Folder of the work; made if need be, and then removed afterwards if it is empty.
        work: Words for it that begin a sentence.
        name: Name of the lock's file in the folder.

    Raises:
        Busy: Another process does it; the message says which, where, since when, and how to end it.
        OSError: The folder cannot be written.
    """
    path = folder / name
    descriptor, made = _locked(folder, path, work)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        os.fsync(descriptor)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still there
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()  # if nothing is left in it


def _locked(folder: Path, path: Path, work: str) -> tuple[int, bool]:
    """Return the descriptor of a lock's file that is held and still has its name, and True if the folder is new."""
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
        holder = json.loads(content)
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (ValueError, KeyError, TypeError):
        return f"{work} is in another process's hands; wait for it, or stop it"
    there = "" if host == socket.gethostname() else f" on {host}"
    return (
        f"{work} is in the hands of process {pid} on {host} since {since}; wait for it, and the same command goes on "
        f"from what it did, or stop it: kill {pid}{there}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

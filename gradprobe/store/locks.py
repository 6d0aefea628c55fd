"""Locks between processes, released by the system when their holder ends, however it ends.

Where the file system has no locks, or none that reach to other machines, each process keeps the pieces of its work in
a folder of its own: `own_folder`.
"""

import errno
import json
import os
import re
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
HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_ATTEMPTS = 100  # at a lock that others take and release meanwhile


class Busy(GradprobeError):
    """Work that another process is doing."""


@contextmanager
def claimed(folder: Path, work: str, name: str = LOCK) -> Iterator[bool]:
    """Keep a piece of work to this process while the block lasts, having found out that its folder can be written.

    Yields True, or False where the file system has no locks: then another process may be in the block too.

    Args:
        folder: Folder of the work; made if need be, and then removed afterwards if it is empty.
        work: Words for it that begin a sentence.
        name: Name of the lock's file in the folder.

    Raises:
        Busy: Another process does it; the message says which, where, since when, and how to end it.
        OSError: The folder cannot be written.
    """
    path = folder / name
    descriptor, made, locked = _locked(folder, path, work)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        os.fsync(descriptor)
        yield locked
    finally:
        if _named(path, descriptor):  # else the folder was removed in the block, and this is the lock of the next one
            path.unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still there
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()  # if nothing is left in it


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for the pieces of work that nothing keeps to one process; it is removed if it stays empty.

    What a process of this machine that has ended left of the same work is taken over.

    Args:
        folder: That all processes would share if there were locks, such as ``0123456789ab.partial``.

    Yields:
        Such as ``0123456789ab.HOST-PID.partial``.
    """
    mine = folder.with_name(f"{folder.stem}.{_host()}-{os.getpid()}{folder.suffix}")
    for attempt in range(_ATTEMPTS):
        for other in folder.parent.glob(f"{folder.stem}.*{folder.suffix}"):
            if not mine.exists() and not may_live(other):
                with suppress(OSError):  # another process took it
                    other.rename(mine)
        try:
            mine.mkdir(parents=True, exist_ok=True)
            break
        except FileNotFoundError:  # the folder above was empty and removed meanwhile
            if attempt + 1 == _ATTEMPTS:
                raise
    try:
        yield mine
    finally:
        with suppress(OSError):
            mine.rmdir()


def may_live(own: Path) -> bool:
    """Return False if the process whose `own_folder` this is has ended; True if that cannot be told from here."""
    host, _, pid = Path(own.stem).suffix.removeprefix(".").rpartition("-")
    if host != _host() or not pid.isdecimal() or os.name == "nt":
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def reaches(path: Path) -> bool:
    """Return True if the lock of a file that a process of another machine holds is seen by this one.

    Args:
        path: File whose lock is held.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return fcntl is not None and not _flock(descriptor)[0]
    finally:
        os.close(descriptor)


def _host() -> str:
    """Return the name of this machine, as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _locked(folder: Path, path: Path, work: str) -> tuple[int, bool, bool]:
    """Return the descriptor of a lock's file that is held and still has its name; whether the folder is new; the lock.

    The last is False where there are no locks.
    """
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
            return descriptor, made, True  # on Windows pieces stay where the next process finds them
        free, locked = _flock(descriptor)
        if not free:
            message = _message(os.pread(descriptor, 1000, 0), work)
            os.close(descriptor)
            raise Busy(message)
        if _named(path, descriptor):
            return descriptor, made, locked
        os.close(descriptor)
    raise Busy(_message(b"", work))


def _named(path: Path, descriptor: int) -> bool:
    """Return True if an open file still has its name."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _flock(descriptor: int) -> tuple[bool, bool]:
    """Take a lock that nobody holds; return False if somebody does, and False where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD, error.errno in HELD
    return True, True


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

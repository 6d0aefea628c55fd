"""Files that are read without waiting and written whole: the calls below the store, the journal and the hashes."""

import errno
import os
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG

from gradprobe.errors import UsageError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # errors of a disk that holds no more


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; a FIFO or device is refused at once instead of waited for.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(descriptor, "rb") if S_ISREG(os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return file


def check_place(path: Path) -> None:
    """Refuse a file that could not be written, before the work that it would hold is done; nothing is made yet.

    Raises:
        UsageError: it is a folder, or lies below a file, in a folder that cannot be written, or has too long a name.
    """
    try:
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder; name a file in it")
        above = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise UsageError(f"cannot write {str(path)[:100]}: {error.strerror}; name another file") from None
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UsageError(f"cannot write {path}: {above} is no folder that can be written; name another file")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it, so that a rename that follows cannot outrun its contents."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until the disk has a file or the names in a folder; where a file system cannot say, go on."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in FULL or error.errno == errno.EIO:
            raise
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut; what was there stays until then."""
    temporary = path.with_name(path.name + ".new")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # what was written of it fills the disk
        raise
    sync(path.parent)

"""Files that are read without waiting and written atomically."""

import errno
import os
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG

from gradprobe.errors import UsageError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # errors of a disk that holds no more


def may_exist(path: Path) -> bool:
    """Return False if there is certainly no file or folder of this name; True if the system cannot tell."""
    try:
        path.lstat()
    except ValueError:  # no file has such a name
        return False
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return True


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; a FIFO or device is refused at once instead of waited for.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(descriptor, "rb") if S_ISREG(os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return file


def check_place(path: Path) -> None:
    """Refuse a file that could not be written, before its content is computed; nothing is made yet.

    Raises:
        UsageError: It is a folder, or lies below a file, in a folder that cannot be written, or has too long a name.
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
    """Wait until the disk has a file, or the names in a folder; ignored where a file system cannot do it."""
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


def atomic_write(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Write a file that is there whole or not at all, also after a power cut; an older one stays until then.

    Args:
        path: Place of the file, in a folder that exists.
        content: All of it.
        temporary: Name in the same folder that is used meanwhile; ``path`` with ``.new`` by default. Writers of the
            same file that may run at the same time need different ones.
    """
    temporary = temporary or path.with_name(path.name + ".new")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # what was written of it fills the disk
        raise
    sync(path.parent)

"""Finished pieces of a long run on disk: what was appended before a kill is there afterwards, whole or not at all."""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError

try:
    import fcntl
except ImportError:  # not a Unix: nothing keeps two processes from doing the same work
    fcntl = None  # type: ignore[assignment]

_HEAD = struct.Struct("<IQI")  # number of the piece, its length, its CRC-32


class Journal:
    """An append-only file of numbered pieces, named after the work that they are pieces of; use `opened`."""

    def __init__(self, folder: Path, about: bytes):
        self._name, self._folder = about.hex()[:12], folder
        path = self.beside("journal")
        self._file = path.open("r+b" if path.exists() else "w+b")
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise GradprobeError(f"another process is at work in {folder}; wait for it, or stop it") from None
        self.pieces = self._read(about)

    def beside(self, suffix: str) -> Path:
        """A file of the same work: other work in the same folder has other names."""
        return self._folder / f"{self._name}.{suffix}"

    def _read(self, about: bytes) -> dict[int, bytes]:
        """The whole pieces; what follows the first broken one is cut off."""
        content = self._file.read()
        pieces, end = {}, len(about)
        if not content.startswith(about):  # new, or killed in its first write
            self._file.seek(0)
            self._file.truncate()
            self._file.write(about)
            self._file.flush()
            return {}
        while end + _HEAD.size <= len(content):
            number, size, check = _HEAD.unpack_from(content, end)
            piece = content[end + _HEAD.size : end + _HEAD.size + size]
            if len(piece) != size or zlib.crc32(piece) != check:
                break
            pieces[number] = piece
            end += _HEAD.size + size
        self._file.truncate(end)
        self._file.seek(end)
        return pieces

    def append(self, number: int, piece: bytes) -> None:
        """Keep a piece: it survives a kill of this process from now on."""
        self._file.write(_HEAD.pack(number, len(piece), zlib.crc32(piece)) + piece)
        self._file.flush()
        self.pieces[number] = piece

    def close(self) -> None:
        """Let another process go on."""
        self._file.close()


@contextmanager
def opened(folder: Path | str, about: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of some work in a folder; its pieces are those of the same work, or none.

    Args:
        folder: made if it is not there; nothing else in it is touched, and it is the caller's to remove.
        about: what the pieces are pieces of, JSON; other work has a journal of its own.

    Raises:
        GradprobeError: another process is at work in it, or it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with opened(folder, {"key": "a"}) as journal:
        ...         journal.append(7, b"seven")
        ...     with opened(folder, {"key": "a"}) as journal:
        ...         journal.pieces
        {7: b'seven'}
    """
    folder = Path(folder)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder, digest)
    except OSError as error:
        reason = error.strerror or error
        raise GradprobeError(f"cannot write to {folder}: {reason}; name another folder with --results DIR") from None
    try:
        yield journal
    finally:
        journal.close()

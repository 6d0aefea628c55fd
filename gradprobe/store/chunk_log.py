"""Append-only log of the finished chunks of a long run; a kill loses at most the chunk that is being written."""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.store.locks import HELD

try:
    import fcntl
except ImportError:  # not a Unix: nothing keeps two processes from doing the same work
    fcntl = None  # type: ignore[assignment]

_HEAD = struct.Struct("<IQI")  # number of the chunk, its length, its CRC-32


class ChunkLog:
    """File of numbered chunks, named after the run that they belong to; use `open_chunk_log`."""

    def __init__(self, folder: Path, digest: bytes):
        self._name, self._folder = digest.hex()[:12], folder
        path = self.beside("journal")
        self._file = path.open("r+b" if path.exists() else "w+b")
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:  # any other: the file system has no locks
                self._file.close()
                raise GradprobeError(f"another process is at work in {folder}; wait for it, or stop it") from None
        self.chunks = self._read(digest)

    def beside(self, suffix: str) -> Path:
        """Return the path of another file of the same run; other runs in the folder have other names."""
        return self._folder / f"{self._name}.{suffix}"

    def _read(self, digest: bytes) -> dict[int, bytes]:
        """Return the whole chunks, and cut off the file from the first broken one."""
        content = self._file.read()
        chunks, end = {}, len(digest)
        if not content.startswith(digest):  # new, or killed in its first write
            self._file.seek(0)
            self._file.truncate()
            self._file.write(digest)
            self._file.flush()
            return {}
        while end + _HEAD.size <= len(content):
            number, size, check = _HEAD.unpack_from(content, end)
            chunk = content[end + _HEAD.size : end + _HEAD.size + size]
            if len(chunk) != size or zlib.crc32(chunk) != check:
                break
            chunks[number] = chunk
            end += _HEAD.size + size
        self._file.truncate(end)
        self._file.seek(end)
        return chunks

    def append(self, number: int, chunk: bytes) -> None:
        """Write a chunk; it survives a kill of this process from now on."""
        self._file.write(_HEAD.pack(number, len(chunk), zlib.crc32(chunk)) + chunk)
        self._file.flush()
        self.chunks[number] = chunk

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()


@contextmanager
def open_chunk_log(folder: Path | str, run: Mapping[str, Any]) -> Iterator[ChunkLog]:
    """Open the log of a run in a folder, with the chunks that the same run has written before.

    Args:
        folder: Place of the log, made if need be. Nothing else in it is touched; removing it is left to the caller.
        run: Description of the run, JSON; each run has a log of its own.

    Raises:
        GradprobeError: Another process writes to the log, or it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open_chunk_log(folder, {"key": "a"}) as log:
        ...         log.append(7, b"seven")
        ...     with open_chunk_log(folder, {"key": "a"}) as log:
        ...         log.chunks
        {7: b'seven'}
    """
    folder = Path(folder)
    digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = ChunkLog(folder, digest)
    except OSError as error:
        reason = error.strerror or error
        raise GradprobeError(f"cannot write to {folder}: {reason}; name another folder with --results DIR") from None
    try:
        yield log
    finally:
        log.close()

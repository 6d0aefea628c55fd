"""SHA-256 of files, cached between runs by path, size and times, so that an unchanged file is read once.

The cache is one small file for each folder of hashed files, below ``$GRADPROBE_CACHE``, else
``$XDG_CACHE_HOME/gradprobe`` or ``~/.cache/gradprobe``. It can be deleted at any time; if it cannot be read or written,
files are hashed again.
"""

import json
import os
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest, sha256
from pathlib import Path

from gradprobe.errors import GradprobeError
from gradprobe.files import open_regular

VARIABLE = "GRADPROBE_CACHE"
# A file changed this recently could change again within the same clock tick, with the same stamp (git's "racy"
# entries), so its hash is not cached. The longest tick is FAT's, 2 s.
RACY_NS = 2_100_000_000
_THREADS = min(8, os.cpu_count() or 1)  # hashlib releases the interpreter lock
_LIMIT = 256 << 20  # bytes read of a cache file at most


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hex.

    Raises:
        GradprobeError: The file cannot be read or is not a regular file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a").write_bytes(b"weights")
        ...     file_hash(Path(folder) / "a")[:16]
        '9a129038d9a00aed'
    """
    (digest,) = file_hashes(path.parent, [path.name])
    if digest is None:
        raise GradprobeError(f"{path} cannot be read ({_reason(path)}); check that it exists, and its permissions")
    return digest


def file_hashes(root: Path, files: Sequence[str]) -> list[str | None]:
    """Return the SHA-256 of each file's contents, in hex; None for a file that is unreadable or not regular.

    Args:
        root: Folder of the files.
        files: Paths relative to the folder.
    """
    cache = _HashCache.of(root)
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(lambda file: cache.hash_of(root / file, file), files))
    cache.save(files)
    return hashes


def cache_folder() -> Path | None:
    """Return the folder of the cache, None for a user without a home directory."""
    if folder := os.environ.get(VARIABLE):
        return Path(folder)
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "gradprobe"
    except RuntimeError:  # no home directory
        return None


class _HashCache:
    """Hashes of the files below a folder, each with the size, times and inode of its file."""

    def __init__(self, path: Path | None, entries: dict[str, list]):
        self._path, self._entries = path, entries
        self._new: dict[str, list] = {}

    @classmethod
    def of(cls, root: Path) -> "_HashCache":
        folder = cache_folder()
        if folder is None:
            return cls(None, {})
        name = sha256(os.path.realpath(root).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        path = folder / f"hashes-{name}.json"
        return cls(path, _read(path))

    def hash_of(self, path: Path, name: str) -> str | None:
        """Return the hash of a file, from the cache if its stamp is the same."""
        try:
            entry = self._entries.get(name)
            if entry is not None and entry[:-1] == stamp(path.stat()):
                return entry[-1]
            with open_regular(path) as file:
                before = os.fstat(file.fileno())
                started = time.time_ns()
                digest = file_digest(file, "sha256").hexdigest()
                after = os.fstat(file.fileno())
        except (OSError, ValueError):
            return None
        quiet = started - max(after.st_mtime_ns, after.st_ctime_ns) > RACY_NS
        if quiet and stamp(before) == stamp(after):
            self._new[name] = [*stamp(after), digest]
        return digest

    def save(self, files: Sequence[str]) -> None:
        """Write the cache atomically; a cache that cannot be written is given up silently."""
        if self._path is None or not self._new:
            return
        entries = self._entries | self._new
        if len(entries) > 2 * len(files) + 1000:  # most of these files no longer exist
            entries = {name: entries[name] for name in files if name in entries}
        temporary = self._path.with_name(f".{self._path.name}-{uuid.uuid4().hex[:8]}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_with_checksum(entries))
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError:
            pass


def stamp(status: os.stat_result) -> list[int]:
    """Return numbers that change with a file, among them inode and ctime, which ``touch`` cannot reset."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _with_checksum(entries: dict[str, list]) -> bytes:
    body = json.dumps(entries, separators=(",", ":")).encode()
    return sha256(body).hexdigest().encode() + b"\n" + body


def _read(path: Path) -> dict[str, list]:
    """Return the entries of a cache file, none if it is missing or damaged."""
    try:
        with open_regular(path) as file:
            check, _, body = file.read(_LIMIT).partition(b"\n")
        return json.loads(body) if sha256(body).hexdigest().encode() == check else {}
    except (OSError, ValueError):
        return {}


def _reason(path: Path) -> str:
    try:
        open_regular(path).close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return "it changed while it was read"

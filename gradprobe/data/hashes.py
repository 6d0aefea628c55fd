"""SHA-256 of files, remembered between runs by path, size and times: a file that did not change is read once.

The memory is a cache, one small file for each folder that was hashed, below ``$GRADPROBE_CACHE``, else
``$XDG_CACHE_HOME/gradprobe`` or ``~/.cache/gradprobe``. It may be deleted at any time; where it cannot be read or
written, files are hashed again.
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
# A file that changed so recently may change again within the same tick of its clock, and look as it did (git's "racy"
# entries): its hash is not remembered. FAT's clock has the longest tick, 2 s.
RACY_NS = 2_100_000_000
_THREADS = min(8, os.cpu_count() or 1)  # hashlib lets go of the interpreter
_LIMIT = 256 << 20  # bytes of a memory that is worth reading


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hex.

    Raises:
        GradprobeError: it cannot be read, or is no regular file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a").write_bytes(b"weights")
        ...     file_hash(Path(folder) / "a")[:16]
        '9a129038d9a00aed'
    """
    (found,) = file_hashes(path.parent, [path.name])
    if found is None:
        raise GradprobeError(f"{path} cannot be read ({_reason(path)}); check that it is there, and its permissions")
    return found


def file_hashes(root: Path, files: Sequence[str]) -> list[str | None]:
    """Return the SHA-256 of each file's contents, in hex; None for one that cannot be read or is no regular file.

    Args:
        root: a folder.
        files: paths relative to it.
    """
    memory = _Memory.of(root)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda file: memory.hash_of(root / file, file), files))
    memory.save(files)
    return found


def cache_folder() -> Path | None:
    """Return the folder of what is remembered; None where the user has no home."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "gradprobe"
    except RuntimeError:  # no home
        return None


class _Memory:
    """The hashes of the files below a folder, each beside the size, times and inode that the file had."""

    def __init__(self, path: Path | None, known: dict[str, list]):
        self._path, self._known = path, known
        self._new: dict[str, list] = {}

    @classmethod
    def of(cls, root: Path) -> "_Memory":
        folder = cache_folder()
        if folder is None:
            return cls(None, {})
        name = sha256(os.path.realpath(root).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        path = folder / f"hashes-{name}.json"
        return cls(path, _read(path))

    def hash_of(self, path: Path, name: str) -> str | None:
        """The hash of a file, from the memory if its stamp is the one remembered."""
        try:
            known = self._known.get(name)
            if known is not None and known[:-1] == _stamp(path.stat()):
                return known[-1]
            with open_regular(path) as file:
                before = os.fstat(file.fileno())
                started = time.time_ns()
                digest = file_digest(file, "sha256").hexdigest()
                after = os.fstat(file.fileno())
        except (OSError, ValueError):
            return None
        quiet = started - max(after.st_mtime_ns, after.st_ctime_ns) > RACY_NS
        if quiet and _stamp(before) == _stamp(after):
            self._new[name] = [*_stamp(after), digest]
        return digest

    def save(self, files: Sequence[str]) -> None:
        """Write what is remembered, whole or not at all; where it cannot be written there is none."""
        if self._path is None or not self._new:
            return
        kept = self._known | self._new
        if len(kept) > 2 * len(files) + 1000:  # most of them are gone
            kept = {name: kept[name] for name in files if name in kept}
        temporary = self._path.with_name(f".{self._path.name}-{uuid.uuid4().hex[:8]}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_sealed(kept))
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError:
            pass


def _stamp(found: os.stat_result) -> list[int]:
    """Stamp that changes when a file does: inode and time of last change too, which no ``touch`` puts back."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _sealed(known: dict[str, list]) -> bytes:
    body = json.dumps(known, separators=(",", ":")).encode()
    return sha256(body).hexdigest().encode() + b"\n" + body


def _read(path: Path) -> dict[str, list]:
    """The entries of a memory; none if it is not there or damaged."""
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
    return "it changed meanwhile"

"""Answers on disk: one folder a question, ``ROOT/<probe>-<key>/`` with ``run.json`` and ``arrays.npz``.

The key is a hash of the question, so the same question asked again finds its answer. A folder is written and synced
under another name and then moved into place: what can be found is whole. Nothing here needs torch.
"""

import hashlib
import importlib
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import FULL, sync, write_synced
from gradprobe.store.leftovers import FORCED, has_run, put_in_place, remove, sweep, take_back
from gradprobe.store.locks import LOCK, claimed, folder_locked
from gradprobe.store.record import (
    ARRAYS,
    RUN,
    SCHEMA,
    as_json,
    damaged,
    described,
    key_of,
    npz,
    read_arrays,
    read_run,
    sealed,
)

__all__ = ["KINDS", "SCHEMA", "Entry", "Store", "check_shapes", "key_of", "kind"]

KINDS: dict[str, type] = {}
Kind = TypeVar("Kind")


def kind(cls: type[Kind]) -> type[Kind]:
    """Make a frozen dataclass with ``probe``, ``question`` and ``environment`` storable (a class decorator)."""
    KINDS[cls.probe] = cls  # type: ignore[attr-defined]
    return cls


def check_shapes(result: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a result whose arrays do not have these shapes.

    Raises:
        GradprobeError: the message names the first that differs.
    """
    for name, shape in shapes.items():
        if getattr(result, name).shape != shape:
            message = f"{name} of a {result.probe} result has shape {getattr(result, name).shape}"
            raise GradprobeError(f"{message}, not {shape}")


@dataclass(frozen=True)
class Entry:
    """A stored result as a listing sees it; ``problem`` says why it cannot be read, empty if it can."""

    path: Path
    probe: str
    key: str
    question: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Store:
    """A folder of results; made when the first one is saved.

    Example:
        >>> store = Store("/nowhere")
        >>> store.find({"probe": "coherence", "k": 58}), store.entries()
        (None, ())
    """

    root: Path | str = "runs"

    def find(self, question: Mapping[str, Any]) -> Path | None:
        """The folder that answers the question, or None."""
        key = key_of(question)
        folder = Path(self.root) / f"{question.get('probe')}-{key}"
        if not has_run(folder) and next(Path(self.root).glob(f".{key}-*.old"), None) is not None:
            with folder_locked(Path(self.root)):  # another process may be about to put a newer one in place
                take_back(Path(self.root), key)
        return folder if has_run(folder) else None

    def partial(self, question: Mapping[str, Any]) -> Path:
        """The folder where the pieces of an unfinished answer are kept."""
        return Path(self.root) / f"{question.get('probe')}-{key_of(question)}.partial"

    @contextmanager
    def working(self, question: Mapping[str, Any], force: bool = False) -> Iterator[Path]:
        """Keep the work on a question to this process; yields the folder for its pieces.

        Args:
            question: that is about to be answered.
            force: begin anew, but for pieces of work that was forced too.

        Raises:
            GradprobeError: another process is at it, or the folder of results cannot be written.
        """
        partial, held = self.partial(question), ExitStack()
        words = f"{question.get('op', 'the reference')} (question {key_of(question)} in {self.root})"
        with held:
            with _told(self.root):
                held.enter_context(claimed(partial, words))
                if force and not (partial / FORCED).exists():
                    for left in partial.iterdir():
                        if left.name != LOCK:
                            remove(left)
                    write_synced(partial / FORCED, b"")
            with _told(self.root, FULL):
                yield partial

    def check_writable(self) -> None:
        """Find out before some work whether what comes of it can be written.

        Raises:
            GradprobeError: it cannot; says why.
        """
        root = Path(self.root)
        trial = root / f".{uuid.uuid4().hex[:12]}-{uuid.uuid4().hex[:8]}"  # swept like any leftover
        with _told(root):
            root.mkdir(parents=True, exist_ok=True)
            try:
                write_synced(trial, b"0" * 4096)
            finally:
                remove(trial)

    def save(self, result: Any, keep: Path | None = None) -> Path:
        """Write a result and return its folder; an older answer to the same question is replaced.

        A kill at any point leaves the older or the newer answer, whole.

        Args:
            result: of a probe.
            keep: a folder whose files go beside the result, such as a trained scorer; it need not be there.

        Raises:
            GradprobeError: a field is neither JSON nor an array, or the folder cannot be written.
        """
        values = {f.name: getattr(result, f.name) for f in fields(result)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        key, data = key_of(result.question), npz(arrays)
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name not in arrays}
        run = {"schema": SCHEMA, "probe": result.probe, "key": key, **plain}
        run |= {"arrays": described(arrays), "sha256": hashlib.sha256(data).hexdigest()}
        as_json(run, "result")
        root = Path(self.root)
        folder, temporary = root / f"{result.probe}-{key}", root / f".{key}-{uuid.uuid4().hex[:8]}"
        try:
            with _told(root):
                temporary.mkdir(parents=True)
                for file in sorted(keep.iterdir()) if keep is not None and keep.is_dir() else ():
                    shutil.copy2(file, temporary / file.name)
                    sync(temporary / file.name)
                write_synced(temporary / ARRAYS, data)
                write_synced(temporary / RUN, sealed(run))
                sync(temporary)
                with folder_locked(root):
                    put_in_place(temporary, folder)
                    sweep(root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def load(self, which: Path | str) -> Any:
        """The result in a folder, or the one whose key begins with ``which``.

        Raises:
            UsageError: no key, or more than one, begins like this.
            GradprobeError: the result cannot be read, is damaged, was edited, or was written by a newer gradprobe.
        """
        folder = self.locate(which)
        for _ in range(3):
            before = _identity(folder)
            try:
                return _loaded(folder)
            except GradprobeError:
                with folder_locked(folder.parent):  # a newer one was put in its place meanwhile: read that
                    if _identity(folder) == before:
                        raise
        return _loaded(folder)

    def locate(self, which: Path | str) -> Path:
        """The folder of a result: its path, or found by the first letters of its key.

        Raises:
            UsageError: no key, or more than one, begins like this.
        """
        if has_run(Path(which)):
            return Path(which)
        asked, folders = str(which), {path.name: path for path in self._folders()}
        keys = {name: name.rpartition("-")[2] for name in folders}
        hits = [name for name, key in keys.items() if asked and (name.startswith(asked) or key.startswith(asked))]
        if len(hits) == 1:
            return folders[hits[0]]
        if hits:
            raise UsageError(f"{asked!r} could be {', '.join(hits)}; type more letters of the key")
        close = get_close_matches(asked, keys.values(), n=3, cutoff=0.0)
        hint = f"nearest: {', '.join(close)}; gradprobe list shows all" if close else "the folder holds none yet"
        raise UsageError(f"no result {asked!r} in {self.root}: {hint}")

    def entries(self) -> tuple[Entry, ...]:
        """All results, oldest first; those that cannot be read too, with their problem.

        Raises:
            GradprobeError: the folder cannot be read.
        """
        found = [_entry(folder) for folder in self._folders()]
        return tuple(sorted(found, key=lambda entry: (str(entry.environment.get("date", "")), entry.path.name)))

    def _folders(self) -> list[Path]:
        """Folders with a run.json; hidden ones are what killed runs left behind."""
        root = Path(self.root)
        if next(root.glob(".*.old"), None) is not None:
            with folder_locked(root):
                take_back(root)
        try:
            folders = sorted(root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise GradprobeError(f"{root} cannot be read ({error.strerror}); give another --results") from None
        return [folder for folder in folders if not folder.name.startswith(".") and has_run(folder)]


def _loaded(folder: Path) -> Any:
    run = read_run(folder)
    cls = _kind_of(run["probe"], folder)
    arrays = read_arrays(folder, run)
    types = {f.name: str(f.type) for f in fields(cls)}
    values = {**run, **arrays}
    later = {f.name for f in fields(cls) if f.default_factory is not MISSING}  # unknown when it was stored
    absent = [name for name in types if name not in values and name not in later]
    if absent:
        raise damaged(folder / RUN, f"it has no {', '.join(absent)}")
    try:
        return cls(
            **{n: tuple(values[n]) if t.startswith("tuple") else values[n] for n, t in types.items() if n in values}
        )
    except Exception as error:  # whatever a class says to fields that are none of its own
        raise damaged(folder / RUN, error) from None


def _kind_of(probe: str, folder: Path) -> type:
    """The class of a probe's results."""
    if probe not in KINDS:
        probes = importlib.import_module("gradprobe.probes")
        for name in probes.names():
            probes.probe_of(name).part("result")  # its class enters itself
    if probe not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise GradprobeError(f"{folder / RUN} is of the probe {probe!r}, unknown here; known: {known}")
    return KINDS[probe]


def _entry(folder: Path) -> Entry:
    probe, _, key = folder.name.rpartition("-")
    try:
        run = read_run(folder)
        _kind_of(run["probe"], folder)
    except GradprobeError as error:
        return Entry(folder, probe, key, problem=str(error))
    return Entry(folder, probe, key, run["question"], run.get("environment", {}))


def _identity(folder: Path) -> tuple[int, int] | None:
    """The folder itself, whatever its name."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _told(root: Path | str, only: Collection[int] = ()) -> Iterator[None]:
    """Errors of a folder that cannot be written, in one line; ``only`` those of some numbers, if there are any."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        reason = error.strerror or error
        raise GradprobeError(
            f"cannot write to {root}: {reason}; what was stored stays; make room, or name another folder with "
            "--results DIR"
        ) from None

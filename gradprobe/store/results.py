"""Answers on disk: one file a question, ``ROOT/<probe>/<key>.npz``.

The key is a hash of the question, so the same question asked again finds its answer. A file is written and synced under
another name and then moved into place: what can be found is whole. Nothing here needs torch.
"""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import FULL, atomic_write, may_exist, write_synced
from gradprobe.store import archive, older
from gradprobe.store.leftovers import FORCED, put_away, remove, remove_empty, sweep, temporary
from gradprobe.store.locks import LOCK, claimed, own_folder
from gradprobe.store.record import RUN, SCHEMA, as_json, damaged, key_of, one_line
from gradprobe.store.zips import described, npy, packed, unpacked

__all__ = ["SCHEMA", "Entry", "Store", "check_shapes", "content_of", "key_of"]

_FILE = re.compile(r"([0-9a-f]{12})\.npz")


def check_shapes(result: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a result whose arrays do not have these shapes.

    Raises:
        GradprobeError: Its message names the first that differs.
    """
    for name, shape in shapes.items():
        if getattr(result, name).shape != shape:
            message = f"{name} of a {result.probe} result has shape {getattr(result, name).shape}"
            raise GradprobeError(f"{message}, not {shape}")


def content_of(result: Any, files: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """Return the bytes of an answer's file.

    Args:
        result: Result of a probe.
        files: Files that go with it, by name, such as a trained scorer.

    Raises:
        GradprobeError: A field is neither JSON nor an array.
    """
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    arrays = {name: value for name, value in sorted(values.items()) if isinstance(value, np.ndarray)}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name not in arrays}
    key = key_of(result.question)
    run = {"schema": SCHEMA, "probe": result.probe, "key": key, **plain, "arrays": described(arrays)}
    as_json(run, "result")
    return packed(run, {f"{name}.npy": npy(array) for name, array in arrays.items()}, files)


@dataclass(frozen=True)
class Entry:
    """Entry of a listing of results; ``problem`` says why one cannot be read, empty if it can."""

    path: Path
    probe: str
    key: str
    question: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Unwritable(GradprobeError):
    """Folder of results that cannot be written, or that holds no more."""


@dataclass(frozen=True)
class Store:
    """Folder of results; made when the first one is saved.

    Attributes:
        root: the folder.
        apart: keep the pieces of unfinished answers in folders of this process's own, since the file system's locks do
            not reach to the other machines that write here; see `gradprobe.store.locks.reaches`.

    Example:
        >>> store = Store("/nowhere")
        >>> store.find({"probe": "coherence", "k": 58}), store.entries()
        (None, ())
    """

    root: Path | str = "runs"
    apart: bool = False

    def find(self, question: Mapping[str, Any]) -> Path | None:
        """Return the answer to a question, or None."""
        probe, key = question.get("probe"), key_of(question)
        if may_exist(path := self._path(probe, key)):
            return path
        folder = self._older(probe, key)
        return folder if may_exist(folder / RUN) else None

    def partial(self, question: Mapping[str, Any]) -> Path:
        """Return the folder for the pieces of an unfinished answer."""
        return self._path(question.get("probe"), key_of(question)).with_suffix(".partial")

    @contextmanager
    def working(self, question: Mapping[str, Any], force: bool = False) -> Iterator[Path]:
        """Keep the work on a question to this process; yields the folder for its pieces.

        Args:
            question: The question that is about to be answered.
            force: Begin anew, but for pieces of work that was forced too.

        Raises:
            Busy: Another process is at it.
            Unwritable: The folder of results cannot be written.
        """
        partial = self.partial(question)
        words = f"{question.get('op', 'the reference')} (question {key_of(question)} in {self.root})"
        with ExitStack() as held:
            held.callback(remove_empty, partial.parent)
            held.callback(remove_empty, partial)  # also if it was made by a process that came second
            with _told(self.root):
                if self.apart or not held.enter_context(claimed(partial, words)):
                    partial = held.enter_context(own_folder(partial))
                if force and not (partial / FORCED).exists():
                    for left in partial.iterdir():
                        if left.name != LOCK:
                            remove(left)
                    write_synced(partial / FORCED, b"")
            with _told(self.root, FULL):
                yield partial

    def check_writable(self) -> None:
        """Make sure, before some work, that its answer can be written.

        Raises:
            GradprobeError: It cannot; says why.
        """
        root = Path(self.root)
        trial = temporary(root)
        with _told(root):
            root.mkdir(parents=True, exist_ok=True)
            try:
                write_synced(trial, b"0" * 4096)
            finally:
                remove(trial)

    def save(self, result: Any, keep: Path | None = None) -> Path:
        """Write a result and return its file; an older answer to the same question is replaced.

        A kill at any point leaves the older or the newer answer, whole.

        Args:
            result: Result of a probe.
            keep: Folder of files that go with it, such as a trained scorer; it need not be there.

        Raises:
            GradprobeError: A field is neither JSON nor an array, or the file cannot be written.
        """
        key = key_of(result.question)
        path = self._path(result.probe, key)
        with _told(self.root):
            files = {file.name: file.read_bytes() for file in sorted(keep.iterdir())} if keep and keep.is_dir() else {}
            content = content_of(result, files)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content, temporary(path.parent))
            put_away(self._older(result.probe, key))
            sweep(Path(self.root))
        return path

    def compact(self, path: Path) -> int:
        """Compress the arrays of an answer in place, while no other process works on its question.

        Args:
            path: Of the answer.

        Returns:
            Bytes that are saved.

        Raises:
            Busy: Another process works on its question, and may replace it.
            GradprobeError: It cannot be read or written, or is damaged.
        """
        with self.working(archive.read_run(path)["question"]), _told(self.root):
            return archive.compact(path)

    def load(self, which: Path | str) -> Any:
        """Return the result of an answer.

        Args:
            which: Path of the answer, or the first letters of its key.

        Raises:
            UsageError: No key, or more than one, begins like this.
            GradprobeError: The answer cannot be read, is damaged, was edited, or was written by a newer gradprobe.
        """
        path = self.locate(which)
        run, members = archive.read(path)
        cls = _kind_of(run["probe"], path)
        with one_line(path):
            values = {**run, **unpacked(members, run["arrays"])}
        types = {f.name: str(f.type) for f in fields(cls)}
        later = {f.name for f in fields(cls) if f.default_factory is not MISSING}  # unknown when it was stored
        absent = [name for name in types if name not in values and name not in later]
        if absent:
            raise damaged(path, f"it has no {', '.join(absent)}")
        try:
            return cls(
                **{n: tuple(values[n]) if t.startswith("tuple") else values[n] for n, t in types.items() if n in values}
            )
        except Exception as error:  # whatever a class says to fields that are none of its own
            raise damaged(path, error) from None

    def locate(self, which: Path | str) -> Path:
        """Return the path of an answer.

        Args:
            which: The path itself, or the first letters of its key, or of ``<probe>/<key>``.

        Raises:
            UsageError: No key, or more than one, begins like this.
        """
        path, start = Path(which), str(which)
        if (path.suffix == ".npz" and may_exist(path)) or may_exist(path / RUN):
            return path
        answers = self.paths()
        keys = {label: label.rpartition("/")[2] for label in answers}
        hits = [label for label, key in keys.items() if start and (label.startswith(start) or key.startswith(start))]
        if len(hits) == 1:
            return answers[hits[0]]
        if hits:
            raise UsageError(f"{start!r} could be {', '.join(hits)}; type more letters of the key")
        close = get_close_matches(start, keys.values(), n=3, cutoff=0.0)
        hint = f"nearest: {', '.join(close)}; gradprobe list shows all" if close else "the folder holds none yet"
        raise UsageError(f"no result {start!r} in {self.root}: {hint}")

    def entries(self) -> tuple[Entry, ...]:
        """Return all results, oldest first; those that cannot be read too, with their problem.

        Raises:
            GradprobeError: The folder cannot be read.
        """
        entries = {label: _entry(label, path) for label, path in self.paths().items()}
        dates = {label: str(entry.environment.get("date", "")) for label, entry in entries.items()}
        return tuple(entries[label] for label in sorted(entries, key=lambda label: (dates[label], label)))

    def paths(self) -> dict[str, Path]:
        """Return the path of each answer by ``<probe>/<key>``, in order; hidden folders hold none.

        Raises:
            GradprobeError: The folder cannot be read.
        """
        root = Path(self.root)
        try:
            folders = sorted(folder for folder in root.iterdir() if not folder.name.startswith("."))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise GradprobeError(f"{root} cannot be read ({error.strerror}); give another --results") from None
        paths: dict[str, Path] = {}
        for folder in folders:
            if label := older.label(folder):
                paths.setdefault(label, folder)  # a newer answer, in the folder of its probe, came before
                continue
            try:
                files = [file for file in folder.iterdir() if _FILE.fullmatch(file.name)]
            except NotADirectoryError:
                continue
            except OSError:
                files = [folder]  # listed, with what is wrong with it
            paths |= {f"{folder.name}/{file.stem}": file for file in files}
        return dict(sorted(paths.items()))

    def _path(self, probe: Any, key: str) -> Path:
        return Path(self.root) / str(probe) / f"{key}.npz"

    def _older(self, probe: Any, key: str) -> Path:
        return Path(self.root) / f"{probe}-{key}"


def _kind_of(probe: str, path: Path) -> type:
    """Return the class of a probe's results."""
    return _declared(probe, path).part("result")


def _declared(probe: str, path: Path) -> Any:
    """Return the declaration of a probe, which imports neither torch nor its results."""
    probes = importlib.import_module("gradprobe.probes")
    if probe not in probes.BUILT_IN and probe not in probes.names():  # no file that a record names is run
        known = ", ".join(probes.names())
        message = f"{path} is of the probe {probe!r}, unknown here; known: {known}"
        raise GradprobeError(f"{message}; name the file of another: --probe FILE.py:PROBE")
    return probes.probe_of(probe)


def _entry(label: str, path: Path) -> Entry:
    probe, _, key = label.rpartition("/")
    try:
        run = archive.read_run(path)
        _declared(run["probe"], path)
    except GradprobeError as error:
        return Entry(path, probe, key, problem=str(error))
    return Entry(path, run["probe"], run["key"], run["question"], run.get("environment", {}))


@contextmanager
def _told(root: Path | str, only: Collection[int] = ()) -> Iterator[None]:
    """Turn errors of a folder that cannot be written into one line; if ``only`` is given, errors of these numbers."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        reason = error.strerror or error
        raise Unwritable(
            f"cannot write to {root}: {reason}; what was stored stays; make room, or name another folder with "
            "--results DIR"
        ) from None

"""Answers on disk: one folder a question, ``ROOT/<probe>-<key>/`` with ``run.json`` and ``arrays.npz``.

The key is a hash of the question, so the same question asked again finds its answer. ``run.json`` is written last and
the folder is moved into place in one step: what can be found is whole. Nothing here needs torch.
"""

import hashlib
import io
import json
import math
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradprobe.errors import GradprobeError, UsageError

SCHEMA = 1
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
            told = f"{name} of a {result.probe} result has shape {getattr(result, name).shape}"
            raise GradprobeError(f"{told}, not {shape}")


def key_of(question: Mapping[str, Any]) -> str:
    """The name of a question: 12 hex digits of the SHA-256 of its canonical JSON.

    Order does not matter, nor whether a whole number is written 1 or 1.0.

    Raises:
        UsageError: a value is not JSON (a tuple, NaN, an array).

    Example:
        >>> key_of({"op": "hard+gather", "k": 58}) == key_of({"k": 58.0, "op": "hard+gather"})
        True
    """
    asked = {"question": _json(dict(question), "question"), "schema": SCHEMA}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
        folder = Path(self.root) / f"{question.get('probe')}-{key_of(question)}"
        return folder if (folder / "run.json").is_file() else None

    def partial(self, question: Mapping[str, Any]) -> Path:
        """The folder where the pieces of an unfinished answer are kept."""
        return Path(self.root) / f"{question.get('probe')}-{key_of(question)}.partial"

    def save(self, result: Any, keep: Path | None = None) -> Path:
        """Write a result and return its folder; an older answer to the same question is replaced.

        Args:
            result: of a probe.
            keep: a folder whose files go beside the result, such as a trained scorer; it need not be there.

        Raises:
            GradprobeError: a field is neither JSON nor an array, or the folder cannot be written.
        """
        values = {f.name: getattr(result, f.name) for f in fields(result)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        key, data = key_of(result.question), _npz(arrays)
        about = {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name not in arrays}
        run = {"schema": SCHEMA, "probe": result.probe, "key": key, **plain}
        run |= {"arrays": about, "sha256": hashlib.sha256(data).hexdigest()}
        _json(run, "result")
        root = Path(self.root)
        folder, temporary = root / f"{result.probe}-{key}", root / f".{key}-{uuid.uuid4().hex[:8]}"
        try:
            temporary.mkdir(parents=True)
            for file in sorted(keep.iterdir()) if keep is not None and keep.is_dir() else ():
                shutil.copy2(file, temporary / file.name)
            (temporary / "arrays.npz").write_bytes(data)
            (temporary / "run.json").write_text(json.dumps(run, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            _move(temporary, folder)
        except OSError as error:
            reason = error.strerror or error
            raise GradprobeError(f"cannot write to {root}: {reason}; name another folder with --results DIR") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def load(self, which: Path | str) -> Any:
        """The result in a folder, or the one whose key begins with ``which``.

        Raises:
            UsageError: no key, or more than one, begins like this.
            GradprobeError: the result is damaged, was edited, or was written by a newer gradprobe.
        """
        folder = self.locate(which)
        run = _read_run(folder)
        data = folder / "arrays.npz"
        try:
            content = data.read_bytes()
            if hashlib.sha256(content).hexdigest() != run["sha256"]:
                raise ValueError("its checksum is not the one in run.json")
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(data, error) from None
        cls = KINDS[run["probe"]]
        types = {f.name: str(f.type) for f in fields(cls)}
        values = {**run, **arrays}
        later = {f.name for f in fields(cls) if f.default_factory is not MISSING}  # unknown when it was stored
        absent = [name for name in types if name not in values and name not in later]
        if absent:
            raise _damaged(folder / "run.json", f"it has no {', '.join(absent)}")
        return cls(
            **{n: tuple(values[n]) if t.startswith("tuple") else values[n] for n, t in types.items() if n in values}
        )

    def locate(self, which: Path | str) -> Path:
        """The folder of a result: its path, or found by the first letters of its key.

        Raises:
            UsageError: no key, or more than one, begins like this.
        """
        if (Path(which) / "run.json").is_file():
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
        """All results, oldest first; those that cannot be read too, with their problem."""
        found = [_entry(folder) for folder in self._folders()]
        return tuple(sorted(found, key=lambda entry: (str(entry.environment.get("date", "")), entry.path.name)))

    def _folders(self) -> list[Path]:
        """Folders with a run.json; hidden ones are what killed runs left behind."""
        return [p.parent for p in sorted(Path(self.root).glob("*/run.json")) if not p.parent.name.startswith(".")]


def _json(value: Any, name: str) -> Any:
    """The value with whole floats as integers; refused if JSON cannot hold it exactly."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return int(value) if value.is_integer() else value
        case list():
            return [_json(item, name) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _json(item, f"{name}.{key}") for key, item in value.items()}
    raise UsageError(f"{name} is {value!r}, which run.json cannot hold; use finite numbers, text, lists and dicts")


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An npz file that depends on the values alone: sorted names, one memory layout, no dates, no compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            entry.create_system = 3  # else it names the operating system
            array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), order="C")
            with file.open(entry, "w") as out:
                np.lib.format.write_array(out, array, allow_pickle=False)
    return buffer.getvalue()


def _move(temporary: Path, folder: Path) -> None:
    """Put a finished folder in place; what was there goes, unless another process has just put it there."""
    if folder.exists():
        old = temporary.with_name(temporary.name + ".old")
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        return
    try:
        temporary.rename(folder)
    except OSError:
        if not (folder / "run.json").is_file():
            raise


def _read_run(folder: Path) -> dict[str, Any]:
    """A run.json that says what its folder is called and what its key stands for."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        schema, probe, key, question = run["schema"], run["probe"], run["key"], run["question"]
        if not isinstance(question, dict):
            raise TypeError("question is not a table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise GradprobeError(f"{path} has schema {schema}, this gradprobe reads up to {SCHEMA}: install a newer one")
    if probe not in KINDS:
        raise GradprobeError(f"{path} is of the probe {probe!r}, unknown here; known: {', '.join(KINDS)}")
    name = f"{probe}-{key_of(question)}"
    if name != f"{probe}-{key}" or name != folder.resolve().name or question.get("probe") != probe:
        raise GradprobeError(f"{path} was edited: its question is that of {name}; delete {folder} and ask again")
    return run


def _entry(folder: Path) -> Entry:
    probe, _, key = folder.name.rpartition("-")
    try:
        run = _read_run(folder)
    except GradprobeError as error:
        return Entry(folder, probe, key, problem=str(error))
    return Entry(folder, probe, key, run["question"], run.get("environment", {}))


def _damaged(path: Path, why: object) -> GradprobeError:
    reason = f"no {why.args[0]!r} in it" if isinstance(why, KeyError) else str(why).partition("\n")[0]
    return GradprobeError(f"{path} is damaged ({reason}); delete {path.parent} and ask again")

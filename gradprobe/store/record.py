"""The two files of a stored answer: ``run.json`` and ``arrays.npz``, read as if by a stranger's hand.

All of ``run.json`` is under the checksum ``record``, the arrays are under ``sha256``. What cannot be read at all is
told apart from what was read and is damaged: only of the latter may a user be told to delete it.
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import open_regular

SCHEMA = 1
RUN, ARRAYS = "run.json", "arrays.npz"
_LARGEST = 64 << 20  # bytes of a run.json
_SLACK = 1 << 16  # bytes that an npz file may have beside each array
_KINDS = "biuf"  # of dtypes: truth values, integers, floats


def key_of(question: Mapping[str, Any]) -> str:
    """The name of a question: 12 hex digits of the SHA-256 of its canonical JSON.

    Order does not matter, nor whether a whole number is written 1 or 1.0.

    Raises:
        UsageError: a value is not JSON (a tuple, NaN, an array).

    Example:
        >>> key_of({"op": "hard+gather", "k": 58}) == key_of({"k": 58.0, "op": "hard+gather"})
        True
    """
    asked = {"question": as_json(dict(question), "question"), "schema": SCHEMA}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_json(value: Any, name: str) -> Any:
    """Return the value with whole floats as integers.

    Raises:
        UsageError: JSON cannot hold it exactly.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return int(value) if value.is_integer() else value
        case list():
            return [as_json(item, name) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: as_json(item, f"{name}.{key}") for key, item in value.items()}
    raise UsageError(f"{name} is {value!r}, which run.json cannot hold; use finite numbers, text, lists and dicts")


def sealed(run: Mapping[str, Any]) -> bytes:
    """Return the contents of ``run.json`` with the checksum of all that stands in it."""
    text = json.dumps({**run, "record": checksum(run)}, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def checksum(run: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON, its own checksum left out."""
    content = {name: value for name, value in run.items() if name != "record"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_run(folder: Path) -> dict[str, Any]:
    """Return a ``run.json`` whose folder is called after its question, and that says what its checksum says.

    Raises:
        GradprobeError: it cannot be read, is damaged, was edited, or was written by a newer gradprobe.
    """
    path = folder / RUN
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 20} MB")
        run = json.loads(content.decode("utf-8"))
        schema, probe, key, question = run["schema"], run["probe"], run["key"], run["question"]
        if not isinstance(schema, int):
            raise TypeError(f"its schema is {schema!r}")
        if schema > SCHEMA:
            raise GradprobeError(
                f"{path} has schema {schema}, this gradprobe reads up to {SCHEMA}: install a newer one"
            )
        for part, value in (("question", question), ("environment", run.get("environment", {}))):
            if not isinstance(value, dict):
                raise TypeError(f"{part} is not a table")
        if not isinstance(probe, str) or not isinstance(key, str):
            raise TypeError("probe and key are not text")
        name = f"{probe}-{key_of(question)}"
        intact = "record" not in run or run["record"] == checksum(run)  # older answers have none
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise damaged(path, error) from None
    here = Path(os.path.realpath(folder)).name
    if name != f"{probe}-{key}" or name != here or question.get("probe") != probe:
        raise GradprobeError(f"{path} was edited: its question is that of {name}; delete {folder} and ask again")
    if not intact:
        raise GradprobeError(f"{path} was edited: its checksum is of other numbers; delete {folder} and ask again")
    return run


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return an npz file that depends on the values alone: sorted names, one memory layout, no dates or compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            entry.create_system = 3  # else it names the operating system
            array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), order="C")
            with file.open(entry, "w") as out:
                np.lib.format.write_array(out, array, allow_pickle=False)
    return buffer.getvalue()


def described(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what ``run.json`` says of arrays: dtype and shape of each."""
    return {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()}


def read_arrays(folder: Path, run: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays that ``run.json`` describes; memory is taken for these and no others.

    Raises:
        GradprobeError: they cannot be read, or are damaged.
    """
    path = folder / ARRAYS
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _allowed(run["arrays"]):
                raise ValueError("it has more bytes than its arrays")
            content = file.read(size)
        if hashlib.sha256(content).hexdigest() != run["sha256"]:
            raise ValueError("its checksum is not the one in run.json")
        return _unpacked(content, run["arrays"])
    except OSError as error:
        raise unreadable(path, error) from None
    except MemoryError:
        raise GradprobeError(f"there is no memory for {path}; close other programs") from None
    except Exception as error:  # whatever zipfile and numpy raise for a hostile file
        raise damaged(path, error) from None


def _allowed(arrays: Mapping[str, Any]) -> int:
    counts = [math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize for about in arrays.values()]
    return sum(counts) + _SLACK * (len(counts) + 1)


def _unpacked(content: bytes, described: Mapping[str, Any]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = file.infolist()
        names = [entry.filename for entry in entries]
        if sorted(names) != sorted(f"{name}.npy" for name in described):
            raise ValueError(f"it holds {', '.join(names)[:100]}, not the arrays of run.json")
        if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries):
            raise ValueError("its arrays are compressed")
        return {name: _array(file.read(f"{name}.npy"), about, name) for name, about in described.items()}


def _array(data: bytes, about: Mapping[str, Any], name: str) -> np.ndarray:
    """An array from the bytes of its npy file; dtype, shape and length are checked before memory is taken."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    said = np.dtype(about["dtype"])
    if dtype.kind not in _KINDS or dtype.newbyteorder("=") != said.newbyteorder("=") or list(shape) != about["shape"]:
        raise ValueError(f"{name} is {dtype} {shape}, not as run.json says")
    if len(data) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has too few or too many bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def damaged(path: Path, why: object) -> GradprobeError:
    """Return the error for a file that was read and is not whole."""
    reason = f"no {why.args[0]!r} in it" if isinstance(why, KeyError) else str(why) or type(why).__name__
    reason = " ".join(reason.split())[:200]
    return GradprobeError(f"{path} is damaged ({reason}); delete {path.parent} and ask again")


def unreadable(path: Path, error: OSError) -> GradprobeError:
    """Return the error for a file that could not be read: it may be whole, so deleting it is not advised."""
    if isinstance(error, FileNotFoundError) and not path.is_symlink():
        return damaged(path, f"there is no {path.name}")
    return GradprobeError(f"{path} cannot be read ({error.strerror or error}); check its permissions and the disk")

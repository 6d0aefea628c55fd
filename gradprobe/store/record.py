"""Record of an answer, ``run.json``: question, environment, plain fields, and checksums of these and of the arrays.

Read as if by a stranger's hand. What cannot be read at all is told apart from what was read and is damaged: only of
the latter may a user be told to delete it.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError

SCHEMA = 1
RUN = "run.json"
KEY = re.compile(r"[0-9a-f]{12}")
LARGEST = 64 << 20  # bytes of a run.json


def key_of(question: Mapping[str, Any]) -> str:
    """Return the name of a question: 12 hex digits of the SHA-256 of its canonical JSON.

    Order does not matter, nor whether a whole number is written 1 or 1.0.

    Raises:
        UsageError: A value is not JSON (a tuple, NaN, an array).

    Example:
        >>> key_of({"op": "hard+gather", "k": 58}) == key_of({"k": 58.0, "op": "hard+gather"})
        True
    """
    content = {"question": as_json(dict(question), "question"), "schema": SCHEMA}
    return hashlib.sha256(_canonical(content)).hexdigest()[:12]


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
    """Return the contents of ``run.json``, with a checksum of all that stands in it."""
    text = json.dumps({**_unsealed(run), "record": checksum(run)}, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def checksum(run: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON, its own checksum left out."""
    return hashlib.sha256(_canonical(_unsealed(run))).hexdigest()


def checked(content: bytes, path: Path) -> dict[str, Any]:
    """Return a record that answers the question its answer is named after, and agrees with its checksum.

    Args:
        content: Contents of ``run.json``.
        path: Answer: the file ``<key>.npz``, or another name that a user chose, or the folder ``<probe>-<key>`` of an
            older layout.

    Raises:
        GradprobeError: It is damaged, was edited, or was written by a newer gradprobe.
    """
    try:
        if len(content) > LARGEST:
            raise ValueError(f"{RUN} has more than {LARGEST >> 20} MB")
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
        right = key_of(question)
        intact = "record" not in run or run["record"] == checksum(run)  # the first answers have none
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise damaged(path, error) from None
    if key != right or question.get("probe") != probe:
        raise GradprobeError(f"{path} was edited: its question is that of {probe}/{right}; delete it and ask again")
    if not intact:
        raise GradprobeError(f"{path} was edited: its checksum is of other numbers; delete it and ask again")
    name = f"{right}.npz" if path.suffix == ".npz" else f"{probe}-{right}"  # a folder of the older layout
    own = path.suffix == ".npz" and not KEY.fullmatch(path.stem)  # a name that a user chose claims nothing
    if not own and path.name != name and Path(os.path.realpath(path)).name != name:
        raise GradprobeError(f"{path} holds the answer {probe}/{right}; rename it to {name}")
    return run


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged or hostile answer raises into an error of one line."""
    try:
        yield
    except GradprobeError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not Path(error.filename or path).is_symlink():
            raise damaged(path, f"there is no {Path(error.filename or path).name}") from None
        reason = error.strerror or error
        raise GradprobeError(f"{path} cannot be read ({reason}); check its permissions and the disk") from None
    except MemoryError:
        raise GradprobeError(f"there is no memory for {path}; close other programs") from None
    except Exception as error:  # whatever json, zipfile and numpy raise
        raise damaged(path, error) from None


def damaged(path: Path, why: object) -> GradprobeError:
    """Return the error for an answer that was read and is not whole."""
    reason = f"no {why.args[0]!r} in it" if isinstance(why, KeyError) and why.args else str(why) or type(why).__name__
    reason = " ".join(reason.split())[:200]
    return GradprobeError(f"{path} is damaged ({reason}); delete it and ask again")


def _unsealed(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "record"}


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

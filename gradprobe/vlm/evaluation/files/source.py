"""Documents of a benchmark as its published files hold them, and help to read those files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import open_regular

TEXT, NUMBER, TEXTS = "text", "number", "texts"  # kinds of fields
ANSWERS = "answers"  # {answer, answer_confidence, answer_id}, several


@dataclass(frozen=True)
class Document:
    """One question with its picture.

    Attributes:
        fields: What lmms-eval's functions read, by name.
        picture: Its file, or its bytes; None where a picture was to be and is not.
        name: Name of the picture, for errors.
        unit: Number of what it is scored with: equal for the questions of an MME picture, and for the circular versions
            of an MMBench question.
    """

    fields: Mapping[str, Any]
    picture: Path | bytes | None
    name: str
    unit: int


def found(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of some files that is in a folder, or somewhere below it.

    Raises:
        UsageError: None of them is.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    below = {path.name: path for name in names for path in sorted(folder.rglob(name), reverse=True) if path.is_file()}
    for name in names:
        if name in below:
            return below[name]
    raise UsageError(f"{folder} has no {' nor '.join(names)}")


def pictures_of(folder: Path, places: Sequence[str], example: str) -> Path:
    """Return the first of some folders, here or below, that has the first picture, else the first that is there.

    Args:
        folder: Folder of the benchmark.
        places: Names of folders in it, the usual one first.
        example: Name of the first picture.

    Raises:
        UsageError: None of the folders is there.
    """
    there = [folder / place for place in places if (folder / place).is_dir()]
    if not there:
        there = [path for place in places for path in sorted(folder.rglob(place)) if path.is_dir()]
    if not there:
        raise UsageError(f"{folder} has no folder of pictures: {' nor '.join(f'{place}/' for place in places)}")
    return next((each for each in there if (each / example).is_file()), there[0])


def content(path: Path) -> str:
    """Return the text of a file.

    Raises:
        GradprobeError: It cannot be read, or is no UTF-8.
    """
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GradprobeError(f"{path} cannot be read: {error}") from None


def loaded(path: Path, kind: type, *within: str) -> Any:
    """Return what a JSON file holds, or an entry of it.

    Args:
        path: The file.
        kind: Type that it must have.
        within: Keys on the way to the entry.

    Raises:
        GradprobeError: It cannot be read, is no JSON, or holds something else.
    """
    try:
        value = json.loads(content(path))
    except (ValueError, RecursionError) as error:
        raise GradprobeError(f"{path} is no JSON: {error}") from None
    for key in within:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        named = f"{kind.__name__} {'.'.join(within)}".strip()
        raise GradprobeError(f"{path} holds no {named}; is it the published file?")
    return value


def taken(entry: Any, names: Iterable[str], path: Path, number: int | str) -> list[Any]:
    """Return some fields of a sample.

    Raises:
        GradprobeError: One is missing; the message says of which sample.
    """
    lacking = [name for name in names if not isinstance(entry, dict) or name not in entry]
    if lacking:
        raise GradprobeError(f"{path}: sample {number} has no {', '.join(lacking)}")
    return [entry[name] for name in names]

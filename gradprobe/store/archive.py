"""One answer, one file: a zip of ``run.json``, arrays, and files that go with them, such as a trained scorer.

``np.load`` reads the arrays, any unzip the rest. A folder of the older layout is read as the file that it would be.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gradprobe.files import atomic_write, open_regular
from gradprobe.store import older
from gradprobe.store.leftovers import temporary
from gradprobe.store.record import RUN, checked, one_line
from gradprobe.store.zips import digest, open_zip, packed, read_first, read_members


def read_run(path: Path) -> dict[str, Any]:
    """Return the record of an answer; the arrays are not read.

    Raises:
        GradprobeError: It cannot be read, is damaged, was edited, or was written by a newer gradprobe.
    """
    with one_line(path):
        if path.is_dir():
            return older.read_run(path)
        with open_regular(path) as file:
            return checked(read_first(file), path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the record of an answer and the npy files of its arrays, which agree with their checksum.

    Raises:
        GradprobeError: It cannot be read, is damaged, was edited, or was written by a newer gradprobe.
    """
    with _opened(path) as file:
        run = checked(read_first(file), path)
        members = read_members(open_zip(file), run["arrays"])
        if digest(members) != run["sha256"]:
            raise ValueError("the checksum of its arrays is not the one in run.json")
    return run, members


def file_names(path: Path) -> list[str]:
    """Return the names of the files that go with an answer.

    Raises:
        GradprobeError: It cannot be read, or is damaged.
    """
    with _opened(path) as file:
        return [name for name in open_zip(file).namelist() if name != RUN and not name.endswith(".npy")]


def read_files(path: Path) -> dict[str, bytes]:
    """Return the files that go with an answer, by name.

    Raises:
        GradprobeError: It cannot be read, or is damaged.
    """
    names = file_names(path)
    with _opened(path) as file:
        return {name: open_zip(file).read(name) for name in names}


def compact(path: Path) -> int:
    """Compress the arrays of an answer in place; its checksum stays. Return the bytes that are saved.

    Nothing keeps another process from replacing the answer meanwhile: see `gradprobe.store.results.Store.compact`.

    Raises:
        GradprobeError: It cannot be read, or is damaged.
        OSError: It cannot be written.
    """
    if path.is_dir():
        return 0  # of the older layout, see ``gradprobe rekey``
    run, members = read(path)
    files, before = read_files(path), path.stat().st_size
    content = packed({name: value for name, value in run.items() if name != "sha256"}, members, files, small=True)
    if len(content) >= before:
        return 0
    atomic_write(path, content, temporary(path.parent))
    return before - len(content)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with one_line(path), io.BytesIO(older.converted(path)) if path.is_dir() else open_regular(path) as file:
        yield file

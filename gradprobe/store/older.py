"""Answers in the older layout: folders ``ROOT/<probe>-<key>/`` with ``run.json``, ``arrays.npz`` and other files.

They are found, read, listed and replaced, but no longer written; ``gradprobe rekey`` makes files of them.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from gradprobe.files import may_exist, open_regular
from gradprobe.store.record import LARGEST, RUN, checked
from gradprobe.store.zips import open_zip, packed, read_members

_ARRAYS = "arrays.npz"
_NAME = re.compile(r"([a-z]+)-([0-9a-f]{12})")


def label(folder: Path) -> str:
    """Return ``<probe>/<key>`` of a folder that holds an answer, empty of any other."""
    match = _NAME.fullmatch(folder.name)
    return f"{match[1]}/{match[2]}" if match and may_exist(folder / RUN) else ""


def read_run(folder: Path) -> dict[str, Any]:
    """Return the record of an answer.

    Raises:
        GradprobeError: It is damaged, was edited, or was written by a newer gradprobe.
        OSError: It cannot be read.
    """
    with open_regular(folder / RUN) as file:
        return checked(file.read(LARGEST + 1), folder)


def converted(folder: Path) -> bytes:
    """Return the file that an answer is in the layout of today: the same record and arrays, with new checksums.

    Raises:
        GradprobeError: Its record is damaged, was edited, or was written by a newer gradprobe.
        OSError, ValueError: It cannot be read; its arrays are damaged.
    """
    run = read_run(folder)
    with open_regular(folder / _ARRAYS) as file:
        members = read_members(open_zip(file), run["arrays"])
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != run["sha256"]:
            raise ValueError("the checksum of its arrays is not the one in run.json")
    others = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in (RUN, _ARRAYS)]
    return packed(run, members, {path.name: path.read_bytes() for path in others})

"""Leftovers of killed runs in a folder of answers: older answers set aside, unfinished folders, unfinished work."""

import errno
import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from gradprobe.errors import GradprobeError
from gradprobe.files import open_regular, sync
from gradprobe.store.locks import claimed
from gradprobe.store.record import RUN

FORCED = "forced"  # in a folder of unfinished work: it is there to replace a stored answer
_TEMPORARY = re.compile(r"\.(?P<key>[0-9a-f]{12})-[0-9a-f]{8}(?P<old>\.old)?|compare-[0-9a-f]{12}\.json\.new")
_PARTIAL = re.compile(r"(?P<answer>[a-z]+-[0-9a-f]{12})\.partial")
_DAY = 86_400.0
_KEPT = 30 * _DAY  # unfinished work


def has_run(folder: Path) -> bool:
    """Return whether a folder has a name ``run.json`` in it; True too if that cannot be told."""
    try:
        (folder / RUN).lstat()
    except ValueError:  # no file has such a name
        return False
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return True


def put_in_place(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name. A kill at any point leaves the older or the newer one, whole.

    An older one is set aside under a name from which `take_back` returns it, until the newer one is in place.
    """
    aside = temporary.with_name(f"{temporary.name}.old")
    there = os.path.lexists(folder)
    if there:
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except BaseException:
        if there and not os.path.lexists(folder):
            aside.rename(folder)
        raise
    sync(folder.parent)
    if there:
        remove(aside)


def take_back(root: Path, key: str = "*") -> None:
    """Put older answers back whose newer ones never came; to be called under the folder's lock."""
    for aside in sorted(root.glob(f".{key}-*.old")):
        if _TEMPORARY.fullmatch(aside.name) and (name := _answer_in(aside)) and not os.path.lexists(root / name):
            with suppress(OSError):  # a folder that cannot be written
                aside.rename(root / name)


def sweep(root: Path) -> None:
    """Remove what nobody will come back to; to be called under the folder's lock.

    That is: older answers that were replaced; unfinished folders of answers after a day; unfinished work that is in no
    process's hands and whose answer is stored, or that was not touched for 30 days.
    """
    take_back(root)
    now = time.time()
    for path in sorted(root.iterdir()):
        if found := _TEMPORARY.fullmatch(path.name):
            replaced = found["old"] and (name := _answer_in(path)) and has_run(root / name)
            if replaced or now - _touched(path) > _DAY:
                remove(path)
        elif found := _PARTIAL.fullmatch(path.name):
            answered = has_run(root / found["answer"]) and not (path / FORCED).exists()
            if answered or now - _touched(path) > _KEPT:
                with suppress(GradprobeError, OSError), claimed(path, "this"):
                    remove(path)


def remove(path: Path) -> None:
    """Remove a folder, file or link; what cannot be removed stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _answer_in(aside: Path) -> str:
    """The name of the answer that a folder held; empty if it does not say."""
    try:
        with open_regular(aside / RUN) as file:
            run = json.loads(file.read())
        name = f"{run['probe']}-{run['key']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if re.fullmatch(r"[a-z]+-[0-9a-f]{12}", name) else ""


def _touched(path: Path) -> float:
    """Time of the last write in a folder, in seconds."""
    times = []
    with suppress(OSError):
        times.append(path.lstat().st_mtime)
        times += [each.lstat().st_mtime for each in path.iterdir()] if path.is_dir() else []
    return max(times, default=time.time())

"""Leftovers of killed runs in a folder of answers: unfinished files, and unfinished work."""

import re
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from gradprobe.errors import GradprobeError
from gradprobe.files import may_exist
from gradprobe.store.locks import claimed, may_live

FORCED = "forced"  # in a folder of unfinished work: it is there to replace a stored answer
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}-[0-9a-f]{8}|compare-[0-9a-f]{12}\.json\.new")
_PARTIAL = re.compile(r"(([a-z]+-)?[0-9a-f]{12})\.partial")  # with its probe's name in the older layout
_OWN = re.compile(r"([0-9a-f]{12})\.[A-Za-z0-9-]+-[0-9]+\.partial")  # of one process, where there are no locks
_DAY = 86_400.0
_KEPT = 30 * _DAY  # unfinished work


def temporary(folder: Path) -> Path:
    """Return a new name in a folder; `sweep` removes what is left under it after a day."""
    return folder / f".{uuid.uuid4().hex[:12]}-{uuid.uuid4().hex[:8]}"


def sweep(root: Path) -> None:
    """Remove what nobody will come back to.

    That is: unfinished files after a day; unfinished work that no process holds and whose answer is stored, or that
    was not touched for 30 days. Where no lock tells that nobody holds it, it must not have been touched for a day.
    """
    now = time.time()
    for path in _contents(root):
        if _TEMPORARY.fullmatch(path.name) and now - _touched(path) > _DAY:
            remove(path)
        elif match := _PARTIAL.fullmatch(path.name) or _OWN.fullmatch(path.name):
            answered = may_exist(path.with_name(f"{match[1]}.npz")) and not (path / FORCED).exists()
            age = now - _touched(path)
            if not answered and age <= _KEPT:
                continue
            if _OWN.fullmatch(path.name):
                if age > _DAY or not may_live(path):
                    remove(path)
                continue
            with suppress(GradprobeError, OSError), claimed(path, "this") as locked:
                if locked or age > _DAY:
                    remove(path)


def _contents(root: Path) -> list[Path]:
    """Return what lies in a folder of answers and in its folders, which other processes may remove meanwhile."""
    paths = sorted(root.iterdir())
    for folder in [path for path in paths if not path.name.startswith(".")]:
        with suppress(OSError):  # no folder, or gone
            paths += sorted(each for each in folder.iterdir() if each.name.startswith(".") or each.suffix == ".partial")
    return paths


def remove(path: Path) -> None:
    """Remove a folder, file or link; what cannot be removed stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def put_away(folder: Path) -> None:
    """Remove a folder; killed meanwhile, it is under a name that `sweep` removes, and no half of an answer."""
    aside = temporary(folder.parent)
    with suppress(OSError):
        folder.rename(aside)
        remove(aside)


def remove_empty(folder: Path) -> None:
    """Remove a folder in which nothing is left."""
    with suppress(OSError):
        folder.rmdir()


def _touched(path: Path) -> float:
    """Return the time of the last write in a folder, in seconds."""
    times = []
    with suppress(OSError):
        times.append(path.lstat().st_mtime)
        times += [each.lstat().st_mtime for each in path.iterdir()] if path.is_dir() else []
    return max(times, default=time.time())

"""Log of a training, ``log.jsonl`` with one line a step, and the experiment trackers that get the same numbers."""

import importlib.util
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, brief, nearest

try:
    import fcntl
except ImportError:  # not a Unix: nothing keeps two processes out of one folder
    fcntl = None  # type: ignore[assignment]

TRACKERS = ("trackio", "wandb", "tensorboard")
Record = Callable[[int, Mapping[str, float]], None]  # (step, values)


class Log:
    """``log.jsonl`` of a training: each step once and without gaps, however often the training was stopped.

    Args:
        folder: Folder of the training, made if need be.

    Raises:
        GradprobeError: Another process is training there, or the folder cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "log.jsonl").open("a+b")
        except OSError as error:
            raise GradprobeError(f"cannot write to {folder}: {error.strerror or error}; give another --out") from None
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise GradprobeError(
                f"another process is training in {folder}; wait for it, or give another --out"
            ) from None

    def truncate(self, step: int) -> None:
        """Keep the lines of the first steps; later steps are about to be done again."""
        self._file.seek(0)
        lines = self._file.readlines()
        complete = all(_step(line) == i for i, line in enumerate(lines[:step], start=1))
        self._file.truncate(sum(map(len, lines[:step])) if complete else 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the line of a step."""
        self._file.write((json.dumps({"step": step, **values}) + "\n").encode())
        self._file.flush()

    def close(self) -> None:
        """Release the folder."""
        self._file.close()


@contextmanager
def tracker(name: str | None, out: Path, settings: Mapping[str, Any], done: int = 0) -> Iterator[Record]:
    """Open a tracker of accelerate's as a function ``(step, values)``, which does nothing if there is no tracker.

    A training that resumes goes on in the run that it began.

    Args:
        name: ``trackio``, ``wandb`` or ``tensorboard``; None: no tracker.
        out: Folder of the training, whose name becomes the run's.
        settings: Config shown beside the run.
        done: Steps that were done before.

    Raises:
        UsageError: There is no such tracker.
        GradprobeError: It is not installed, or cannot begin.
    """
    if name is None:
        yield lambda step, values: None
        return
    check_tracker(name)
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the messages of accelerate's trackers ask it which process this is
    try:
        opened: Any = LOGGER_TYPE_TO_CLASS[name](**_arguments(name, out, done))
        if hasattr(opened, "start"):  # before accelerate 1.9 the constructor did it
            opened.start()
        opened.store_init_configuration({n: v for n, v in settings.items() if isinstance(v, str | int | float)})
    except Exception as error:  # of a service out of reach, a key that is missing, a folder that is full
        raise GradprobeError(f"--track {name} cannot begin: {brief(error)}; leave it out, or mend that") from None
    try:
        yield lambda step, values: opened.log(dict(values), step=step)
    finally:
        opened.finish()


def _arguments(name: str, out: Path, done: int) -> dict[str, Any]:
    """Return the arguments with which a tracker goes on in the run of a folder, or begins one."""
    if name == "tensorboard":
        return {"run_name": "tensorboard", "logging_dir": str(out), "purge_step": done + 1}  # drops undone steps
    run = {"run_name": "gradprobe", "name": out.name, "resume": "allow" if done else "never"}
    if name == "trackio":
        return run
    note = out / "wandb.txt"
    known = note.read_text(encoding="utf-8").strip() if done and note.is_file() else ""
    identity = known or uuid.uuid4().hex[:12]
    note.write_text(f"{identity}\n", encoding="utf-8")
    return {**run, "id": identity}


def check_tracker(name: str | None) -> None:
    """Refuse a tracker that is unknown or not installed, before any work.

    Raises:
        UsageError: There is no such tracker.
        GradprobeError: It is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise UsageError(f"--track {name} is not known; {nearest(name, TRACKERS)}")
    for module, package in ((name, name), ("accelerate", '"gradprobe[vlm]"')):
        if sys.modules.get(module, ...) is None or importlib.util.find_spec(module) is None:
            raise GradprobeError(f"--track {name} needs {module} installed; type: pip install {package}")


def _step(line: bytes) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None

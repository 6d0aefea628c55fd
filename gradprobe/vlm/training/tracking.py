"""Log of a training, ``log.jsonl`` with one line a step, and the experiment trackers that get the same numbers."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest

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
def tracker(name: str | None, out: Path, settings: Mapping[str, Any]) -> Iterator[Record]:
    """Open a tracker as a function ``(step, values)``, which does nothing if there is no tracker.

    Args:
        name: ``trackio``, ``wandb`` or ``tensorboard``; None: no tracker.
        out: Folder of the training, whose name becomes the run's.
        settings: Config shown beside the run.

    Raises:
        UsageError: There is no such tracker.
        GradprobeError: It is not installed.
    """
    if name is None:
        yield lambda step, values: None
        return
    check_tracker(name)
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(out / "tensorboard"))

        def add(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        try:
            yield add
        finally:
            writer.close()
        return
    module: Any = importlib.import_module(name)
    module.init(project="gradprobe", name=out.name, config=dict(settings))
    try:
        yield lambda step, values: module.log(dict(values), step=step)
    finally:
        module.finish()


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
    if importlib.util.find_spec(name) is None:
        raise GradprobeError(f"--track {name} needs it installed; type: pip install {name}")


def _step(line: bytes) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None

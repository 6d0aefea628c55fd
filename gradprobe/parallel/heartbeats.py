"""Signs of life of workers, as small files in the store that all machines share.

While a run lasts, ``ROOT/.workers/RUN/`` holds its ``token`` and, for each question that is being answered, a file
``HOST-PID-KEY.json`` with the stage of the work. A worker removes its file when it is done with a question; a file that
stays behind tells of a worker that was killed.
"""

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.store.leftovers import remove
from gradprobe.store.locks import claimed

FOLDER = ".workers"
TOKEN = "token"
SECOND = 1.0  # between two signs of a worker
DEAD = 10.0  # seconds without a sign after which a worker is no longer shown
_DAY = 86_400.0
_SEEN = 2.0  # seconds in which a new file is to be seen on other machines


class Line(str):
    """Description of a worker's progress, which replaces the one before in a display.

    Attributes:
        line: name of the line that it is shown in.
    """

    line: str

    def __new__(cls, line: str, text: str) -> "Line":
        """Return the text of a line."""
        description = super().__new__(cls, f"{line} {text}")
        description.line = line
        return description


@contextmanager
def run_folder(root: Path) -> Iterator[Path]:
    """Make the folder of a run's signs of life, with its token; remove it afterwards, and those of dead runs before.

    Raises:
        OSError: it cannot be made.
    """
    above = root / FOLDER
    _sweep(above)
    folder = above / uuid.uuid4().hex[:12]
    try:
        with claimed(folder, "this run"):
            (folder / TOKEN).write_text(folder.name)
            yield folder
    finally:
        (folder / TOKEN).unlink(missing_ok=True)  # first: workers that are still busy stop when they miss it
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            above.rmdir()


def sees(folder: Path) -> bool:
    """Return True if the token of a run can be read, if need be after the moment that a network may take."""
    end = time.monotonic() + _SEEN
    while True:
        with suppress(OSError):
            return (folder / TOKEN).read_text() == folder.name
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


class Beat:
    """Sign of life of a worker while it answers a question; a thread writes it once a second.

    Args:
        folder: of the run.
        key: of the question.
        label: words for the question.
        parent: process without which this one ends; 0: none.
    """

    def __init__(self, folder: Path, key: str, label: str, parent: int = 0):
        self._folder, self._parent = folder, parent
        self._path = folder / f"{socket.gethostname()}-{os.getpid()}-{key}.json"
        self._sign: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "key": key, "label": label}
        self._sign |= {"stage": "", "done": 0, "of": 1, "count": 0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.abandoned = False

    def __enter__(self) -> "Beat":
        """Write the first sign."""
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the file."""
        self._ended.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def tell(self, description: str, done: int, total: int) -> None:
        """Note the stage of the work.

        Raises:
            GradprobeError: the run has ended.
        """
        self._sign |= {"stage": description, "done": done, "of": total}
        if self.abandoned:
            raise GradprobeError("the run that asked has ended")

    def _beat(self) -> None:
        while not self._ended.wait(SECOND):
            if self._parent and os.getppid() != self._parent:
                os._exit(1)  # the driver was killed, and nobody waits for the answer
            self.abandoned = not (self._folder / TOKEN).exists()
            self._write()

    def _write(self) -> None:
        self._sign["count"] += 1
        with suppress(OSError):  # a full disk, or the run has ended
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self._sign))
            new.replace(self._path)


def killed(folder: Path, key: str) -> int:
    """Return the number of workers that were killed while they answered a question, if none is answering it."""
    return len(list(folder.glob(f"*-{key}.json")))


@dataclass
class _Seen:
    sign: dict[str, Any]
    at: float


class Watch:
    """Thread that reads the signs of life of a run and passes them on as progress.

    Args:
        folder: of the run.
        progress: called with (description, done, of how many), by one thread at a time.

    Attributes:
        each_second: called as long as it reads.
    """

    def __init__(self, folder: Path, progress: Callable[[str, int, int], None] | None):
        self._folder, self._progress = folder, progress
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._seen: dict[str, _Seen] = {}
        self._shown: set[str] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._failure: BaseException | None = None
        self.each_second: Callable[[], None] = lambda: None

    def __enter__(self) -> "Watch":
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the lines of all workers."""
        self._ended.set()
        self._thread.join()
        if self._failure is None and error[0] is None:
            self._show({})

    def report(self, description: str, done: int, total: int) -> None:
        """Pass progress on, if anybody listens.

        Raises:
            BaseException: whatever the listener raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._progress is not None:
            with self._lock:
                self._progress(description, done, total)

    def alive(self) -> set[str]:
        """Return the keys of the questions that workers are answering."""
        return {str(sign["key"]) for sign in self._look().values()}

    def _watch(self) -> None:
        while not self._ended.wait(SECOND):
            try:
                self._show(self._look())
                self.each_second()
            except BaseException as error:  # raised in the thread that waits for answers
                self._failure = error
                return

    def _look(self) -> dict[str, dict[str, Any]]:
        """Return the signs of workers that are alive, by file; a clock of another machine plays no part."""
        now, found = time.monotonic(), {}
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError, ValueError):
                found[path.name] = json.loads(path.read_text())
        for name, sign in found.items():
            before = self._seen.get(name)
            if before is None or before.sign != sign:
                self._seen[name] = _Seen(sign, now)
        return {name: sign for name, sign in found.items() if now - self._seen[name].at < DEAD}

    def _show(self, signs: dict[str, dict[str, Any]]) -> None:
        lines = {f"{sign['host']}:{sign['pid']}": sign for sign in signs.values()}
        for gone in self._shown - set(lines):
            self.report(Line(gone, ""), 0, 0)
        for line, sign in lines.items():
            text = f"{sign['label']}: {sign['stage']}" if sign["stage"] else sign["label"]
            self.report(Line(line, text), sign["done"], sign["of"])
        self._shown = set(lines)


def _sweep(above: Path) -> None:
    """Remove the folders of runs whose driver has ended."""
    with suppress(OSError):
        for folder in above.iterdir():
            with suppress(OSError, GradprobeError), claimed(folder, "this run") as locked:
                if locked or time.time() - folder.stat().st_mtime > _DAY:
                    remove(folder)

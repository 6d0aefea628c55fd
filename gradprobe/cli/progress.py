"""Progress bars with the time left, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gradprobe.cli.screen import Screen
from gradprobe.plotting.escape import visible

FINISHED = 8  # finished bars shown at most, so that they fit a terminal


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function ``(description, done, total)`` that draws one bar per description."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    progress = Progress(*columns, *left, console=Screen(stderr=True), disable=quiet)
    tasks = {}
    finished: list = []

    def update(description: str, done: int, total: int) -> None:
        if description not in tasks:
            progress.start()  # not earlier, so that an early error stays one line
            tasks[description] = progress.add_task(visible(description), total=total)
        task = tasks[description]
        progress.update(task, completed=done, total=total)
        if done >= total and task not in finished:
            finished.append(task)
            for old in finished[:-FINISHED]:
                progress.update(old, visible=False)

    try:
        yield update
    finally:
        if tasks:  # stop() without start() prints an empty line
            progress.stop()

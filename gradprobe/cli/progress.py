"""Progress bars with the time left, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gradprobe.cli.screen import Screen
from gradprobe.plotting.escape import visible

FINISHED = 8  # finished bars shown at most, so that they fit a terminal


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function ``(description, done, total)`` that draws one bar per description.

    A description with an attribute ``line`` (`gradprobe.parallel.heartbeats.Line`) replaces the one before of that
    line; with a total of 0 it removes the line.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    progress = Progress(*columns, *left, console=Screen(stderr=True), disable=quiet)
    tasks: dict[str, TaskID] = {}
    described: dict[str, str] = {}
    finished: list = []

    def update(description: str, done: int, total: int) -> None:
        line = getattr(description, "line", None)
        name = line or description
        if not total and line:
            if name in tasks:
                progress.remove_task(tasks.pop(name))
            return
        if name not in tasks:
            progress.start()  # not earlier, so that an early error stays one line
            tasks[name] = progress.add_task(visible(description), total=total)
        elif line and described[name] != description:
            progress.reset(tasks[name], description=visible(description), completed=done, total=total)
        described[name] = description
        task = tasks[name]
        progress.update(task, completed=done, total=total)
        if line:
            return
        if done >= total and task not in finished:
            finished.append(task)
            for old in finished[:-FINISHED]:
                progress.update(old, visible=False)

    try:
        yield update
    finally:
        if described:  # stop() without start() prints an empty line
            progress.stop()

"""Progress bars with the time left, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gradprobe.cli.screen import Screen
from gradprobe.plotting.escape import visible

KEPT = 8  # finished bars that stay in sight: more would not fit a terminal


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function ``(what, done, of how many)`` that draws one bar for each ``what``."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=Screen(stderr=True), disable=quiet)
    known = {}
    finished: list = []

    def tell(what: str, done: int, total: int) -> None:
        if what not in known:
            progress.start()  # not before there is something to show: an early error stays one line
            known[what] = progress.add_task(visible(what), total=total)
        progress.update(known[what], completed=done, total=total)
        if done >= total and known[what] not in finished:
            finished.append(known[what])
            for old in finished[:-KEPT]:
                progress.update(old, visible=False)

    try:
        yield tell
    finally:
        if known:  # stopped without a start it prints an empty line
            progress.stop()

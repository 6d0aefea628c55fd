"""``gradprobe compact``: stored answers with compressed arrays."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli.output import say
from gradprobe.errors import GradprobeError, UsageError


def compact(results: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("runs")) -> None:
    """Compress the arrays of stored answers, to about half; they are read and checked as before."""
    from gradprobe.cli.progress import bars
    from gradprobe.store.results import Store

    if not results.is_dir():
        raise UsageError(f"--results {results} is no folder; give one with answers, such as runs")
    store, saved, problems = Store(results), 0, []
    paths = list(store.paths().values())
    if paths:
        store.check_writable()
    with bars() as progress:
        for done, path in enumerate(paths):
            try:
                saved += store.compact(path)
            except GradprobeError as error:  # of one answer; the others are compressed all the same
                problems.append(str(error))
            progress("compressing", done + 1, len(paths))
    count = len(paths) - len(problems)
    say(f"{count} answer{'s' * (count != 1)} in {results}: {saved / 2**20:.1f} MiB saved")
    for problem in problems[:-1]:
        say(problem, err=True)
    if problems:
        raise GradprobeError(problems[-1])

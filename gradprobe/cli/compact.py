"""``gradprobe compact``: stored answers with compressed arrays."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli.output import say
from gradprobe.errors import GradprobeError, UsageError


def compact(results: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("runs")) -> None:
    """Compress the arrays of stored answers, to about half; they are read and checked as before."""
    from gradprobe.cli.progress import bars
    from gradprobe.store.archive import compact as compress
    from gradprobe.store.results import Store

    if not results.is_dir():
        raise UsageError(f"--results {results} is no folder; give one with answers, such as runs")
    paths, saved, problems = list(Store(results).paths().values()), 0, []
    with bars() as progress:
        for done, path in enumerate(paths):
            try:
                saved += compress(path)
            except GradprobeError as error:  # of one answer; the others are compressed all the same
                problems.append(str(error))
            progress("compressing", done + 1, len(paths))
    say(f"{len(paths) - len(problems)} answers in {results}: {saved / 2**20:.1f} MiB saved")
    for problem in problems[:-1]:
        say(problem, err=True)
    if problems:
        raise GradprobeError(problems[-1])

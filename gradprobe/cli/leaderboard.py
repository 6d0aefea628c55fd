"""``gradprobe leaderboard``: every operator that has a name, by every probe."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say
from gradprobe.errors import GradprobeError


def leaderboard(
    preset: Annotated[Path, typer.Option(help="What is asked.")] = Path("experiments/leaderboard.toml"),
    page: Annotated[Path, typer.Option(help="The table, as Markdown.")] = Path("docs/leaderboard.md"),
    data: Annotated[Path, typer.Option(help="All numbers, as JSON.")] = options.COMMITTED / "leaderboard.json",
    figure: options.Figure = Path("figures/leaderboard.png"),
    results: options.Results = options.RUNS,
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Compute nothing; show what is stored.")] = False,
    trust: options.Trust = None,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
) -> None:
    """Measure every operator that has a name and is not measured yet, and write the leaderboard."""
    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import load_experiment, run_experiment
    from gradprobe.comparison.leaderboard import check_preset, comparisons, lacking, shares, write
    from gradprobe.comparison.leaderboard_figure import leaderboard_pages
    from gradprobe.parallel.driver import Crew
    from gradprobe.plotting.palette import to_palette
    from gradprobe.plotting.style import check_path, save_pages
    from gradprobe.store.results import Store

    if figure is not None:
        check_path(figure)
    experiment = load_experiment(preset, options.trusted(trust))
    check_preset(experiment)
    stores, crew = [Store(options.COMMITTED), Store(results)], Crew(jobs, cluster)
    with bars() as tell:
        answers, missing = run_experiment(experiment, stores, tell, draw_only, crew)
    computed = sum(answer.computed for answer in answers)
    say(f"{len(answers) - computed} answers stored, {computed} computed, {len(missing)} missing")
    found = shares(answers, missing)
    for line in lacking(found):
        say(f"  {line}")
    if missing and draw_only:
        say(f"to go on: {_command()}")
    boards = comparisons(experiment, answers, missing)
    if not boards:
        raise GradprobeError(f"no answers for the baseline {experiment.baseline}; the lines above say why")
    pages = [] if figure is None else leaderboard_pages(boards)
    write(boards, page, data, found, len(pages))
    say(f"table: {page}")
    say(f"numbers: {data}")
    if figure is not None:
        for path in save_pages(pages, figure):
            say(f"figure: {to_palette(path)}")


def _command() -> str:
    """Return the command as typed, but for what keeps it from computing."""
    typed = [argument for argument in sys.argv[1:] if argument not in ("--debug", "--draw-only")]
    return shlex.join(["gradprobe", *typed])

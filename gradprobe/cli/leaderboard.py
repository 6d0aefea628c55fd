"""``gradprobe leaderboard``: every operator that has a name, by every probe."""

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
) -> None:
    """Measure every operator that has a name and is not measured yet, and write the leaderboard."""
    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import load_experiment, run_experiment
    from gradprobe.comparison.figures import leaderboard as drawn
    from gradprobe.comparison.leaderboard import comparisons, write
    from gradprobe.plotting.style import check_path, save_figure
    from gradprobe.store.results import Store

    if figure is not None:
        check_path(figure)
    experiment = load_experiment(preset, options.trusted(trust))
    with bars() as tell:
        answers, missing = run_experiment(experiment, [Store(options.COMMITTED), Store(results)], tell, draw_only)
    computed = sum(answer.computed for answer in answers)
    say(f"{len(answers) - computed} answers stored, {computed} computed, {len(missing)} missing")
    for gap in missing:
        say(f"  missing: {gap.run.question['probe']} of {gap.run.question['op']}, {gap.run.panel}: {gap.reason}")
    boards = comparisons(experiment, answers, missing)
    if not boards:
        raise GradprobeError(f"no answers for the baseline {experiment.baseline}; the lines above say why")
    write(boards, page, data)
    say(f"table: {page}")
    say(f"numbers: {data}")
    if figure is not None:
        say(f"figure: {save_figure(drawn(boards), figure)}")

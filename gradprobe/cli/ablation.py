"""``gradprobe ablation``: Table 5, what each part of DiffPrune is worth."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json


def ablation(
    preset: Annotated[Path, typer.Option(help="What is asked.")] = Path("experiments/table5_ablation.toml"),
    results: options.Results = options.RUNS,
    figure: options.Figure = None,
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Compute nothing; show what is stored.")] = False,
    trust: options.Trust = None,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
    as_json: options.Json = False,
) -> None:
    """Train a scorer through each variant of DiffPrune, as far as there is no answer yet, and print Table 5."""
    from gradprobe.cli.progress import bars
    from gradprobe.comparison.ablation import tokens_of, variants, verdicts
    from gradprobe.comparison.drawings import drawings
    from gradprobe.comparison.experiments import load_experiment, run_experiment
    from gradprobe.parallel.driver import Crew
    from gradprobe.plotting.palette import to_palette
    from gradprobe.plotting.style import check_path, save_figure
    from gradprobe.store.results import Store

    if figure is not None:
        check_path(figure)
    experiment = load_experiment(preset, options.trusted(trust))
    stores, crew = [Store(options.COMMITTED), Store(results)], Crew(jobs, cluster)
    with bars() as tell:
        answers, missing = run_experiment(experiment, stores, tell, draw_only, crew)
    parts = variants([answer.result for answer in answers], experiment.paper)
    if as_json:
        rows = [
            {"variant": v.name, "op": v.op, "denoiser": v.denoiser, "paper": cell.paper, **cell.row}
            for v in parts
            for cell in v.cells.values()
        ]
        say_json({"title": experiment.title, "rows": rows, "missing": len(missing)})
    else:
        from gradprobe.cli.screen import Screen
        from gradprobe.comparison.ablation_figure import ablation_table

        console = Screen()
        console.print(experiment.title)
        console.print(ablation_table(parts, tokens_of(experiment)))
        for line in verdicts(parts):
            console.print(line)
        computed = sum(answer.computed for answer in answers)
        say(f"{len(answers) - computed} answers stored, {computed} computed, {len(missing)} missing")
        for gap in missing[:3]:
            say(f"  missing: {gap.run.question.get('op')} at K = {gap.run.question.get('k')}: {gap.reason}")
    if figure is not None:
        saved = to_palette(save_figure(drawings()["ablation"](experiment, answers)[0], figure))
        if not as_json:
            say(f"figure: {saved}")

"""``gradprobe figures``: draw the presets in experiments/, answering what is not stored yet."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say
from gradprobe.errors import GradprobeError, UsageError, nearest


def figures(
    name: Annotated[
        str | None, typer.Argument(help="One preset, e.g. fig1c_coherence; all of them without it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("figures"),
    presets: Annotated[Path, typer.Option(help="Folder of the presets.")] = Path("experiments"),
    results: Annotated[Path, typer.Option(help="Where new answers are kept.")] = Path("runs"),
    kinds: Annotated[str, typer.Option("--format", help="Kinds of files: any of png, svg and pdf.")] = "png,svg",
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Compute nothing; draw what is stored.")] = False,
    trust: options.Trust = None,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
) -> None:
    """Draw the figures of the presets; only questions without a stored answer are computed."""
    from gradprobe.cli.progress import bars
    from gradprobe.cli.screen import Screen
    from gradprobe.comparison.drawings import drawings as figures_by_name
    from gradprobe.comparison.drawings import reports
    from gradprobe.comparison.experiments import load_experiment, run_experiment
    from gradprobe.parallel.driver import Crew
    from gradprobe.plotting.palette import to_palette
    from gradprobe.plotting.style import check_path, save_pages
    from gradprobe.store.presets import shipped
    from gradprobe.store.results import Store

    known = {path.stem: path for path in sorted(shipped(presets).glob("*.toml"))}
    if not known:
        raise UsageError(f"no presets in {presets}; give --presets DIR, or leave it out for gradprobe's own")
    if name is not None and name not in known:
        raise UsageError(f"no preset {name!r} in {presets}: {nearest(name, known)}")
    suffixes = [f".{kind.strip().lower()}" for kind in kinds.split(",")]
    for suffix in suffixes:
        check_path(out / f"figure{suffix}")
    drawings = figures_by_name()
    chosen = [load_experiment(path, options.trusted(trust)) for stem, path in known.items() if name in (None, stem)]
    for experiment in chosen:
        if experiment.figure not in drawings:
            raise UsageError(
                f"{experiment.name}: no figure {experiment.figure!r}: {nearest(experiment.figure, drawings)}"
            )
    undrawn = []
    for experiment in chosen:
        stores, crew = [Store(options.COMMITTED), Store(results)], Crew(jobs, cluster)
        with bars() as tell:
            answers, missing = run_experiment(experiment, stores, tell, draw_only, crew)
        computed = sum(answer.computed for answer in answers)
        counted = f"{len(answers) - computed} stored, {computed} computed, {len(missing)} missing"
        say(f"{experiment.name}: {counted if experiment.runs else 'from the configuration alone'}")
        gaps = Counter((gap.run.question.get("op"), " ".join(gap.run.panel.split()), gap.reason) for gap in missing)
        for (op, panel, reason), count in gaps.items():
            say(f"  missing: {f'{count} of ' if count > 1 else ''}{op} in {panel}: {reason}")
        if not answers and experiment.runs:
            undrawn.append(experiment.name)
            continue
        pages = drawings[experiment.figure](experiment, answers)
        for suffix in suffixes:
            for path in save_pages(pages, out / f"{experiment.name}{suffix}"):
                say(f"  drawn: {to_palette(path)}")
        if name is not None and (report := reports().get(experiment.figure)):
            console = Screen()
            for part in report(experiment, answers):
                console.print(part)
    if undrawn:
        raise GradprobeError(f"no answers for {', '.join(undrawn)}, so nothing drawn; the lines above say why")

"""``gradprobe advise``: the operator to train for a model, its data and a number of tokens."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import completion, options
from gradprobe.cli.compare import budget_seconds
from gradprobe.cli.output import say_json

Ops = Annotated[
    list[str] | None,
    typer.Option(
        help="Operator beside the registered ones, repeatable: vpnoise:tau=0.3, my.py:MyOp.",
        autocompletion=completion.operators,
    ),
]
Seeds = Annotated[
    Any,
    typer.Option(
        parser=options.seeds("seeds"),
        metavar=options.SEEDS[0],
        help="Seeds of the last trainings: 1..5 or 1,2,7. Default: as many of 1..3 as the budget allows.",
    ),
]


def advise(
    k: options.K = None,
    keep: options.Keep = None,
    op: Ops = None,
    budget: Annotated[str, typer.Option(help="Time it may take: 90s, 15m, 2h.")] = "15m",
    seeds: Seeds = None,
    confirm: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="Train the best candidates, or go by the measure alone.")
    ] = True,
    steps: Annotated[int, typer.Option(help="Steps of a training of full length.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Images in a training step.")] = 16,
    page: options.Page = None,
    scorer: options.Scorer = "mlp",
    vlm: options.Vlm = None,
    backbone: options.Backbone = "scenes",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    image_size: options.ImageSize = None,
    data: options.Data = None,
    class_order: options.ClassOrder = None,
    train_data: options.TrainData = None,
    layer: options.Layer = 0,
    loss: options.Loss = "ce",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    generator: options.Generator = "auto",
    workers: options.Workers = None,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
    results: options.Results = options.RUNS,
    as_json: options.Json = False,
) -> None:
    """Name the operator to train for this model, these data and this K, with its price and what to expect of it."""
    seconds = budget_seconds(budget)
    options.check_budget(k, keep)
    if page != "none":
        from gradprobe.plotting.pages import check_html

        check_html(Path(page or "advice.html"))

    from gradprobe.advice.page import write_advice
    from gradprobe.advice.run import advise as run
    from gradprobe.cli.progress import bars

    with bars() as tell:
        advice = run(
            k, keep=keep, ops=op or (), budget=seconds, seeds=seeds, steps=steps, batch_size=batch_size,
            confirm=confirm, task=vlm, backbone=backbone, weights=weights, weights_key=weights_key,
            image_size=image_size, data=data, class_order=class_order, train_data=train_data, scorer=scorer,
            layer=layer, loss=loss, device=device, dtype=dtype, generator=generator, workers=workers, jobs=jobs,
            cluster=cluster, results=results, progress=tell,
        )  # fmt: skip
    written = None if page == "none" else write_advice(advice, Path(page) if page else results / _name(advice.title))
    if as_json:
        say_json(advice.to_json() | {"path": str(results), "page": written and str(written)})
        return

    from gradprobe.advice.tables import candidate_table, rung_lines, spent
    from gradprobe.cli.screen import Screen

    console = Screen()
    options.warn_random(console, str(advice.settings.get("weights")))
    for line in advice.verdict:
        console.print(line)
    console.print(advice.command, soft_wrap=True)
    console.print(candidate_table(advice))
    for line in (*rung_lines(advice), spent(advice)):
        console.print(line)
    for name, reason in advice.missing.items():
        console.print(f"missing: {name}: {reason}", soft_wrap=True)
    console.print("would change it:")
    for line in advice.changes:
        console.print(f"  {line}")
    if written:
        console.print(f"page: {written}", soft_wrap=True)


def _name(title: str) -> str:
    """Return the file name of an advice's page."""
    return f"advice-{re.sub(r'[^A-Za-z0-9]+', '-', title).strip('-')}.html"

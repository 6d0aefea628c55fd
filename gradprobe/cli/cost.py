"""``gradprobe cost``: what does a training gradient through an operator take, and what the deployed model?"""

from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json


def cost(
    op: options.Op,
    k: options.K = None,
    keep: options.Keep = None,
    baseline: options.Baseline = options.BASELINE,
    images: Annotated[int, typer.Option(help="Images in the one group that is measured.")] = 8,
    rounds: Annotated[int, typer.Option(help="How often everything is timed, at least 6.")] = 9,
    scorer: options.Scorer = "mlp",
    backbone: options.Backbone = "scenes",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    image_size: options.ImageSize = None,
    data: options.Data = None,
    class_order: options.ClassOrder = None,
    layer: options.Layer = 0,
    loss: options.Loss = "ce",
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    results: options.Results = options.RUNS,
    figure: options.Figure = None,
    as_json: options.Json = False,
    force: options.Force = False,
) -> None:
    """FLOPs, seconds and memory of a training gradient and of the deployed model, against a baseline.

    Seconds are of the run that measured them: --force measures again.
    """
    options.check_budget(k, keep)
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.cost.measure import question_of
    from gradprobe.store.results import Store
    from gradprobe.tasks import classification

    operators, base = options.operators(op, baseline)
    task = classification(
        backbone, weights=weights, data=data, layer=layer, loss=loss, scorer=scorer, seed=seed, device=device,
        dtype=dtype, weights_key=weights_key, image_size=image_size, class_order=class_order,
    )  # fmt: skip
    k = options.budget(k, keep, task.n_tokens)
    where = options.where_of(weights=weights, data=data, device=device)
    settings: dict[str, Any] = {"images": images, "rounds": rounds, "seed": seed}
    asked = [Run(backbone, question_of(task, operator, k, **settings), where) for operator in operators.values()]
    with bars() as tell:
        found = [ask(run, [Store(results)], tell, force) for run in asked]
    against = None if base is None else found[0].result  # the baseline comes first
    rows = [a.result.row(None if a.result is against else against, a.path) for a in found]
    shown = {n: v for n, v in found[-1].result.question.items() if n not in ("op", "op_code")} | {"baseline": base}
    if as_json:
        say_json({"probe": "cost", "settings": shown, "rows": rows, "path": str(results)})
    else:
        _print(rows, shown, base, found)
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.probes.cost.figure import cost_bars

        save_figure(cost_bars([a.result for a in found], f"{backbone}, K = {k} of {task.n_tokens}"), figure)
        if not as_json:
            say(f"figure: {figure}")


def _print(rows: list[dict[str, Any]], settings: dict[str, Any], base: str | None, found: list[Any]) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.probes.cost.view import cost_table, meaning, ratio_lines

    console = Screen()
    options.warn_random(console, settings["weights"])
    console.print(cost_table(rows))
    for line in ratio_lines(rows, base):
        console.print(line)
    console.print(meaning(rows))
    options.print_sources(console, found)

"""``gradprobe coherence``: do the gradients of different batches agree?"""

from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError

MEANING = (
    "coherence: mean cosine between scorer gradients of different batches; 1: every batch says the same, 0: nothing "
    "in common. centred: without the part that moves all scores of an image together, which no ranking can see."
)


def coherence(
    op: options.Op,
    k: options.K = None,
    keep: options.Keep = None,
    baseline: options.Baseline = options.BASELINE,
    batches: Annotated[int, typer.Option(help="Batches, at least 3.")] = 32,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 16,
    draws: Annotated[int, typer.Option(help="Noise draws for each batch, at least 2.")] = 2,
    steps: Annotated[str, typer.Option(help="Measure after so many training steps of the scorer: 0,100,500.")] = "0",
    learning_rate: options.Rate = 2e-4,
    scorer: options.Scorer = "mlp",
    vlm: options.Vlm = None,
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
    """Measure how far scorer gradients of different batches agree, with intervals, against a baseline."""
    counts = _steps(steps)
    options.check_budget(k, keep)

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.coherence.measure import question_of
    from gradprobe.store.results import Store

    operators, base = options.operators(op, baseline)
    make, backbone = options.task_maker(vlm, backbone)
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)
    task = make(
        backbone, weights=weights, data=data, layer=layer, loss=loss, scorer=scorer, seed=seed, device=device,
        dtype=dtype, weights_key=weights_key, image_size=image_size, class_order=class_order,
    )  # fmt: skip
    k = options.budget(k, keep, task.n_tokens)
    where = options.where_of(weights=weights, data=data, device=device)
    settings: dict[str, Any] = {
        "batches": batches, "batch_size": batch_size, "draws": draws, "learning_rate": learning_rate, "seed": seed
    }  # fmt: skip
    with bars() as tell:
        found = [
            ask(
                Run(backbone, question_of(task, operator, k, steps=count, **settings), where),
                [Store(results)],
                tell,
                force,
            )
            for operator in operators.values()
            for count in counts
        ]
    bases = {a.result.question["steps"]: a for a in found if a.result.question["op"] == base}
    rows = []
    for a in found:
        other = bases.get(a.result.question["steps"])
        against = other.result if other is not None and other is not a else None
        rows.append(a.result.row(baseline=against, path=a.path))
    settings = {n: v for n, v in found[-1].result.question.items() if n not in ("op", "op_code", "steps")}
    if as_json:
        settings["baseline"] = base
        say_json({"probe": "coherence", "settings": settings, "rows": rows, "path": str(results)})
    else:
        _print(rows, settings, base, found)
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.probes.coherence.figure import coherence_bars

        title = f"{backbone}, K = {k} of {task.n_tokens}, {batches} batches of {batch_size}"
        save_figure(coherence_bars(rows, title), figure)
        if not as_json:
            say(f"figure: {figure}")


def _steps(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [-1]
    if counts[0] < 0:
        raise UsageError(
            f"--steps {text} is not possible; give whole numbers of training steps, e.g. --steps 0,100,500"
        )
    return counts


def _print(rows: list[dict[str, Any]], settings: dict[str, Any], base: str | None, found: list[Any]) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.plotting.columns import coherence_table, ratio_lines

    console = Screen()
    options.warn_random(console, settings["weights"])
    console.print(coherence_table(rows))
    for line in ratio_lines(rows, base):
        console.print(line)
    console.print(MEANING)
    options.print_sources(console, found)

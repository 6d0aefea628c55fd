"""``gradprobe curvature``: how strongly does the loss bend, for operators that have second derivatives?"""

from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say_json

MEANING = (
    "λ1, λ2, ...: eigenvalues of largest magnitude of the Hessian of the scorer's mean loss, with the noise fixed; "
    "residual: the largest |Hv - λv| / |λ| of them; trace: by random signs, interval over samples; off: largest "
    "relative error of the derivatives against differences."
)


def curvature(
    op: options.Op,
    k: options.K = None,
    keep: options.Keep = None,
    eigenvalues: Annotated[int, typer.Option(help="How many, those of largest magnitude.")] = 5,
    images: Annotated[int, typer.Option(help="Images in the loss; a multiple of the batch size if larger.")] = 32,
    batch_size: Annotated[int, typer.Option(help="Images differentiated at once, and in a batch of training.")] = 16,
    samples: Annotated[int, typer.Option(help="Random vectors for the trace, at least 2.")] = 16,
    tolerance: Annotated[float, typer.Option(help="Of each eigenvalue's residual.")] = 1e-3,
    steps: Annotated[int, typer.Option(help="Measure after so many training steps of the scorer.")] = 0,
    learning_rate: options.Rate = 2e-4,
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
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    results: options.Results = options.RUNS,
    as_json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Eigenvalues and trace of the Hessian of the scorer's loss, or why an operator has none."""
    options.check_budget(k, keep)

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.curvature.measure import question_of
    from gradprobe.store.results import Store
    from gradprobe.tasks import classification

    operators, _ = options.operators(op, "none")
    task = classification(
        backbone, weights=weights, data=data, layer=layer, loss=loss, scorer=scorer, seed=seed, device=device,
        dtype=dtype, weights_key=weights_key, image_size=image_size, class_order=class_order,
    )  # fmt: skip
    k = options.budget(k, keep, task.n_tokens)
    where = options.where_of(weights=weights, data=data, device=device)
    settings: dict[str, Any] = {
        "images": images, "batch_size": batch_size, "eigenvalues": eigenvalues, "samples": samples,
        "tolerance": tolerance, "steps": steps, "learning_rate": learning_rate, "seed": seed,
    }  # fmt: skip
    runs = [Run(backbone, question_of(task, operator, k, **settings), where) for operator in operators.values()]
    with bars() as tell:
        found = [ask(run, [Store(results)], tell, force) for run in runs]
    rows = [a.result.row(path=a.path) for a in found]
    shown = {n: v for n, v in found[-1].result.question.items() if n not in ("op", "op_code")}
    if as_json:
        say_json({"probe": "curvature", "settings": shown, "rows": rows, "path": str(results)})
    else:
        _print(rows, shown, found)


def _print(rows: list[dict[str, Any]], settings: dict[str, Any], found: list[Any]) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.probes.curvature.view import curvature_table

    console = Screen()
    options.warn_random(console, settings["weights"])
    console.print(curvature_table(rows))
    for row in rows:
        if row["hessian"] != "yes":
            console.print(f"{row['op']}: no Hessian: {row['hessian']}")
    if any(row["hessian"] == "yes" for row in rows):
        console.print(MEANING)
    options.print_sources(console, found)

"""``gradprobe coherence``: do the gradients of different batches agree?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.errors import UsageError

BASELINE = "gumbel"
MEANING = (
    "coherence: mean cosine between scorer gradients of different batches; 1: every batch says the same, 0: nothing "
    "in common. centred: without the part that moves all scores of an image together, which no ranking can see."
)


def coherence(
    op: Annotated[list[str], typer.Option(help="Operator, repeatable: vpnoise, lapsum:tau=0.3+scale, my.py:MyOp.")],
    k: Annotated[int | None, typer.Option(help="Tokens kept, 1..N.")] = None,
    keep: Annotated[float | None, typer.Option(help="Tokens kept as a share of N, in (0, 1]; instead of --k.")] = None,
    baseline: Annotated[str, typer.Option(help="Operator to compare with; none for no baseline.")] = BASELINE,
    batches: Annotated[int, typer.Option(help="Batches, at least 3.")] = 32,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 16,
    draws: Annotated[int, typer.Option(help="Noise draws for each batch, at least 2.")] = 2,
    steps: Annotated[str, typer.Option(help="Measure after so many training steps of the scorer: 0,100,500.")] = "0",
    learning_rate: Annotated[float, typer.Option(help="Of that training.")] = 2e-4,
    scorer: Annotated[str, typer.Option(help="mlp or transformer, with fields: mlp:width=512.")] = "mlp",
    backbone: Annotated[str, typer.Option(help="scenes (embedded) or a timm vision transformer.")] = "scenes",
    weights: Annotated[str | None, typer.Option(help="A .safetensors or .pth file, or none for random.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of images; the scenes have their own.")] = None,
    layer: Annotated[int, typer.Option(help="Blocks before the insertion point.")] = 0,
    loss: Annotated[str, typer.Option(help="ce (labels) or kl (to the unpruned output).")] = "ce",
    seed: Annotated[int, typer.Option(help="Of images, noise, scorer and training.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 (autocast) or float64.")] = "float32",
    results: Annotated[Path, typer.Option(help="Where answers are kept.")] = Path("runs"),
    figure: Annotated[Path | None, typer.Option(help="Draw the bars into this .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    force: Annotated[bool, typer.Option(help="Measure again even if the answer is stored.")] = False,
) -> None:
    """Measure how far scorer gradients of different batches agree, with intervals, against a baseline."""
    counts = _steps(steps)
    if (k is None) == (keep is None):
        raise UsageError("give either --k (tokens kept) or --keep (their share, e.g. --keep 0.3)")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"--keep {keep} is not possible; give a share in (0, 1], e.g. --keep 0.3")

    from gradprobe import registry
    from gradprobe.cli.progress import bars
    from gradprobe.experiments import Run, ask
    from gradprobe.probes.coherence import question_of
    from gradprobe.results import Store
    from gradprobe.tasks import classification

    operators = {registry.label(o): o for o in map(registry.build, [*([] if baseline == "none" else [baseline]), *op])}
    base = None if baseline == "none" else next(iter(operators))
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)
    task = classification(
        backbone,
        weights=weights,
        data=data,
        layer=layer,
        loss=loss,
        scorer=scorer,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    k = k if k is not None else max(1, round((keep or 1) * task.n_tokens))
    where = {n: v for n, v in (("weights", weights), ("data", data), ("device", device)) if v is not None}
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
        typer.echo(
            json.dumps({"probe": "coherence", "settings": settings, "rows": rows, "path": str(results)}, indent=2)
        )
    else:
        _print(rows, settings, base, found)
    if figure is not None:
        from gradprobe.plotting.coherence import coherence_bars
        from gradprobe.plotting.style import save_figure

        title = f"{backbone}, K = {k} of {task.n_tokens}, {batches} batches of {batch_size}"
        save_figure(coherence_bars(rows, title), figure)
        if not as_json:
            typer.echo(f"figure: {figure}")


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
    from rich.console import Console

    from gradprobe.plotting.tables import coherence_table, ratio_lines

    console = Console()
    if settings["weights"].startswith("random:"):
        console.print(
            "RANDOM WEIGHTS: this model has learned nothing; its numbers describe its shape only.", style="bold"
        )
    console.print(coherence_table(rows))
    for line in ratio_lines(rows, base):
        console.print(line, highlight=False)
    console.print(MEANING, highlight=False)
    skipped = sorted({name for a in found for name in a.result.environment["skipped"]})
    if skipped:
        some = "an unreadable image" if len(skipped) == 1 else f"{len(skipped)} unreadable images"
        console.print(f"skipped {some}: {', '.join(skipped)}", highlight=False)
    for a in found:
        how = "stored" if a.computed else "from the store (--force measures again)"
        console.print(f"{how}: {a.path}", highlight=False, soft_wrap=True)

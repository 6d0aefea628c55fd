"""``gradprobe vlm evaluate``: scores of a pruned model on published benchmarks, beside those of the unpruned one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import completion, options
from gradprobe.cli.output import say_json
from gradprobe.cli.vlm_selected import Average
from gradprobe.errors import UsageError


def evaluate(
    tasks: Annotated[str, typer.Option(help="Benchmarks: gqa,pope,..., or all; see vlm benchmark list.")],
    data: Annotated[Path, typer.Option(help="Folder of prepared benchmarks, as vlm benchmark prepare wrote it.")],
    model: Annotated[str | None, typer.Option(help="Hub id or folder; by default the model of the pruner.")] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            "--select",
            help="Selectors without training: divprune, fastv@2, plan.json.",
            autocompletion=completion.selectors,
        ),
    ] = None,
    pruner: Annotated[str | None, typer.Option(help="Folder or hub id of a trained pruner.")] = None,
    k: Annotated[int | None, typer.Option(help="Tokens kept an image; instead of the pruner's own budget.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Tokens kept as a share of N in (0, 1]; instead of --k.")] = None,
    average: Average = None,
    positions: Annotated[str | None, typer.Option(help="Position ids of kept tokens: keep, or compact.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Questions of each benchmark, the first ones; default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions that are answered together.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ..., or auto: spread over all devices.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; float32 on a CPU, else bfloat16.")
    ] = None,
    results: options.Results = options.RUNS,
    force: options.Force = False,
    trust: options.Trust = None,
    as_json: options.Json = False,
) -> None:
    """Score a pruned model on published benchmarks through lmms-eval, and what it retains of the unpruned model.

    Without --plan and --pruner the unpruned model alone. Interrupted, it goes on where it was.
    """
    from gradprobe.vlm.evaluation.benchmarks import benchmarks_of
    from gradprobe.vlm.evaluation.installed import lmms_eval_version
    from gradprobe.vlm.evaluation.prepared import prepared

    benchmarks = benchmarks_of(tasks)
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples} is not possible; give a whole number of at least 1")
    if model is None and pruner is None:
        raise UsageError("name the model: --model llava-hf/llava-1.5-7b-hf, or --pruner with the model it belongs to")
    lmms_eval_version()
    for each in benchmarks:
        prepared(data, each)

    from gradprobe.cli.progress import bars
    from gradprobe.store.results import Store
    from gradprobe.vlm.evaluation import EvaluationSettings
    from gradprobe.vlm.evaluation.arguments import ModelArguments
    from gradprobe.vlm.evaluation.run import Evaluated
    from gradprobe.vlm.evaluation.run import evaluate as ask
    from gradprobe.vlm.evaluation.tokens import first_counts
    from gradprobe.vlm.pruner import Pruner

    store = Store(results)
    store.check_writable()
    named = ModelArguments(model, pruner, plan, k, ratio, average, positions, device, dtype, batch_size)
    chosen = named.opened(options.trusted(trust))
    settings = EvaluationSettings(samples=samples, batch_size=batch_size)
    models = [chosen.vlm] if chosen.model is chosen.vlm else [chosen.vlm, chosen.model]
    stores = [Store(options.COMMITTED), store]
    with bars() as progress:
        answers = [
            [ask(Evaluated(each, benchmark, data), settings, stores, force=force, progress=progress) for each in models]
            for benchmark in benchmarks
        ]
    pruned = chosen.model if isinstance(chosen.model, Pruner) else None
    counts = first_counts(pruned, data / benchmarks[0].name) if pruned else None
    _report(chosen.vlm, answers, counts, as_json)


def _report(vlm: Any, answers: Sequence[Sequence[Any]], counts: Any, as_json: bool) -> None:
    """Print what was found; answers are those of the unpruned model and, where there are counts, of the pruned one."""
    from gradprobe.vlm.evaluation import view
    from gradprobe.vlm.evaluation.paper import quoted

    rows = [each[-1].result.row(each[0].result if counts else None, each[-1].path) for each in answers]
    average = _average(answers) if counts else None
    paper = quoted(vlm.family.name, counts[0].average / counts[1]) if counts else None
    if as_json:
        told: dict[str, Any] = {"probe": "evaluation", "model": vlm.name, "op": rows[0]["op"], "rows": rows}
        tokens = counts and {"layers": list(counts[0].layers), "average": counts[0].average, "of": counts[1]}
        told |= {"average": average, "tokens": tokens}
        say_json(told | {"paper": paper and {"title": paper.title, "retained": paper.rows}})
        return

    from gradprobe.cli.screen import Screen

    console = Screen()
    console.print(view.table(rows))
    if counts:
        console.print(
            f"tokens x layers of the first picture: {counts[0].text}; average {counts[0].average:.1f} of {counts[1]}",
            soft_wrap=True,
        )
    for line in view.lines(rows):
        console.print(line, soft_wrap=True)
    if average is not None:
        many = f"{len(rows)} benchmarks" if len(rows) > 1 else "one benchmark"
        console.print(f"average retention over {many}: {view.percent_of(average)}", soft_wrap=True)
    if paper is not None and average is not None:
        console.print(paper.title, soft_wrap=True)
        console.print(view.quoted_table(rows, average, paper))
        for method, why in paper.contested.items():
            console.print(f"{method}, contested: {why}", soft_wrap=True)
    console.print(view.meaning(rows), soft_wrap=True)
    for answer in (answer for each in answers for answer in each):
        how = "stored" if answer.computed else "from the store (--force asks again)"
        console.print(f"{how}: {answer.path}", soft_wrap=True)


def _average(answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
    from gradprobe.statistics.estimates import finite
    from gradprobe.vlm.evaluation.result import average_retention

    mean = average_retention([(pruned.result, unpruned.result) for unpruned, pruned in answers])
    return {"retention": finite(mean.value), "low": finite(mean.low), "high": finite(mean.high)}

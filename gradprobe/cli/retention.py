"""``gradprobe retention``: what does a scorer trained through an operator keep, once hard top-K is deployed?"""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError, nearest

K, IMAGES = 20, 1000
SAME = "TRAINED AND TESTED ON THE SAME IMAGES: name a folder of others with --train-data DIR."


def retention(
    op: options.Op,
    k: Annotated[str | None, typer.Option(help="Tokens kept, 1..N; several: 5,10,20. Default: 20.")] = None,
    keep: Annotated[str | None, typer.Option(help="Tokens kept as shares of N: 0.05,0.1; instead of --k.")] = None,
    baseline: options.Baseline = options.BASELINE,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 100,
    seeds: Annotated[str, typer.Option(help="Each is its own scorer, images and noise.")] = "0,1",
    batch_size: Annotated[int, typer.Option(help="Images in a training step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of the first step; falls to 0 by a cosine.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    tau: Annotated[str, typer.Option(help="From:to by a cosine; own: what the operator says, all along.")] = "2.0:0.1",
    images: Annotated[int | None, typer.Option(help="Test images; 1000, or what the folder has.")] = None,
    denoiser: Annotated[str, typer.Option(help="Trained with the scorer: token, global or none.")] = "none",
    rankings: Annotated[
        str | None,
        typer.Option(help="Beside them: random,norm,class-attention,truth; none. Default: those there are."),
    ] = None,
    scorer: options.Scorer = "mlp",
    vlm: options.Vlm = None,
    backbone: options.Backbone = "scenes",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    image_size: options.ImageSize = None,
    data: options.Data = None,
    class_order: options.ClassOrder = None,
    train_data: Annotated[str | None, typer.Option(help="Folder to train on; the one of --data without it.")] = None,
    layer: options.Layer = 0,
    loss: options.Loss = "ce",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    workers: options.Workers = None,
    results: options.Results = options.RUNS,
    figure: options.Figure = None,
    as_json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Train a scorer through each operator, deploy hard top-K, and compare accuracies with the unpruned model's."""
    if k is not None and keep is not None:
        raise UsageError("give either --k (tokens kept, e.g. 5,10,20) or --keep (their shares, e.g. 0.05,0.1)")
    counts = options.numbers("k", k or (str(K) if keep is None else ""), int, "5,10,20")
    shares = options.numbers("keep", keep, float, "0.05,0.1")
    for share in shares:
        options.check_budget(None, share)
    chosen, (first, last) = options.numbers("seeds", seeds, int, "0,1,2"), options.temperatures(tau)
    if not chosen or chosen[0] < 0:
        raise UsageError(f"--seeds {seeds} is not possible; give whole numbers of 0 or more, e.g. --seeds 0,1,2")
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.retention.measure import question_of, ranked_question
    from gradprobe.probes.retention.result import seed_groups
    from gradprobe.store.results import Store
    from gradprobe.training.train import Recipe

    operators, base = options.operators(op, baseline)
    make, backbone = options.task_maker(vlm, backbone)
    where = options.where_of(weights=weights, data=data, device=device, workers=workers)
    training = where | options.where_of(train_data=train_data)
    settings: dict[str, Any] = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "tau_start": first, "tau_end": last,
    }  # fmt: skip
    asked = []
    for seed in chosen:
        task = make(
            backbone, weights=weights, data=data, train_data=train_data, layer=layer, loss=loss, scorer=scorer,
            seed=seed, device=device, dtype=dtype, denoiser=denoiser, weights_key=weights_key, image_size=image_size,
            class_order=class_order,
        )  # fmt: skip
        recipe = Recipe(seed=seed, **settings)
        count = task.available(IMAGES) if images is None else images
        budgets = sorted({*counts, *(options.budget(None, share, task.n_tokens) for share in shares)})
        asked += [
            Run(backbone, question_of(task, each, b, recipe=recipe, images=count), training)
            for b in budgets for each in operators.values()
        ]  # fmt: skip
        asked += [
            Run(backbone, ranked_question(task, ranking, b, images=count, seed=seed), where)
            for ranking in _rankings(task, rankings) for b in budgets
        ]  # fmt: skip
    with bars() as tell:
        found = [ask(run, [Store(results)], tell, force) for run in asked]
    paths = {id(a.result): a.path for a in found}
    groups = seed_groups([a.result for a in found])
    bases = {g[0].question["k"]: g for g in groups if g[0].question["op"] == base}
    rows = _rows(groups, bases, paths)
    shown = {n: v for n, v in found[0].result.question.items() if n not in ("op", "op_code", "k", "seed")}
    shown |= {"seeds": chosen, "baseline": base}
    if as_json:
        say_json({"probe": "retention", "settings": shown, "rows": rows, "path": str(results)})
    else:
        _print(rows, shown, base, found, task.n_tokens, same=data is not None and train_data is None)
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.probes.retention.figure import retention_figure

        title = f"{backbone}, {count} images, {steps} steps"
        save_figure(retention_figure([(title, [a.result for a in found])]), figure)
        if not as_json:
            say(f"figure: {figure}")


def _rankings(task: Any, text: str | None) -> list[str]:
    """The rankings that were asked for, which must be possible, or all that this task can tell."""
    from gradprobe.models.rankings import RANKINGS, rank_scores

    asked = list(RANKINGS) if text is None else [] if text == "none" else list(dict.fromkeys(text.split(",")))
    for name in asked:
        if name not in RANKINGS:
            raise UsageError(f"no ranking is called {name!r}; {nearest(name, RANKINGS)}, or none for none")
    if not asked:
        return []
    (one,) = task.batches(1, 1, 0)
    told = [name for name in asked if rank_scores(task, name, one, 0) is not None]
    if text is not None and told != asked:
        lacking = ", ".join(name for name in asked if name not in told)
        known = ", ".join([*told, "none"])
        raise UsageError(f"--rankings {lacking} is not possible with this model and images; possible: {known}")
    return told


def _rows(groups: Sequence[Any], bases: dict[int, Any], paths: dict[int, Any]) -> list[dict[str, Any]]:
    """A row for each operator or ranking and K, compared with the baseline of the same K."""
    from gradprobe.probes.retention.result import over_seeds

    rows = []
    for group in groups:
        other = bases.get(group[0].question["k"])
        rows.append(over_seeds(group, None if other is group else other, [paths[id(r)] for r in group]))
    return rows


def _print(
    rows: list[dict[str, Any]], settings: dict[str, Any], base: str | None, found: list[Any], n: int, same: bool
) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.probes.retention.view import difference_lines, kind_lines, meaning, retention_table
    from gradprobe.store.archive import file_names

    console = Screen()
    options.warn_random(console, settings["weights"])
    if same:
        console.print(SAME, style="bold")
    console.print(retention_table(rows, n))
    for line in difference_lines(rows, base):
        console.print(line)
    if settings["data"] == "pictures":
        from gradprobe.data.pictures_text import KINDS

        console.print("retention is the mean over kinds of questions:")
        for line in kind_lines(rows, KINDS):
            console.print(f"  {line}")
    console.print(meaning(rows))
    options.print_sources(console, found)
    trained = [a for a in found if "scorer.safetensors" in file_names(a.path)]
    for a in trained:
        q = a.result.question
        text = f"scorer of {q['op']}, K = {q['k']}, seed {q['seed']}: {a.path}"
        console.print(text, soft_wrap=True)
    if trained:
        path, kept = trained[-1].path, trained[-1].result.question["k"]
        deploy = f"pruned = gp.prune(vit, scorer, k={kept})  # vit: the timm model"
        if settings.get("task") == "captioning":
            model = f'gp.vlm.open_vlm("{settings["backbone"]}")'
            deploy = f"pruned = gp.vlm.Pruner({model}, scorer, gp.vlm.Budget(k={kept}))"
        lines = f'  scorer = gp.load_scorer("{path}")\n  {deploy}'
        console.print(f"to deploy the last in Python:\n{lines}", soft_wrap=True)

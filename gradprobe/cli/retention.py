"""``gradprobe retention``: scorers trained through operators beside rankings, each row pooled over seeds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.probe import Request, command, labelled
from gradprobe.cli.retention_plans import layer_lines, plans_asked, tokens_read
from gradprobe.errors import UsageError
from gradprobe.probes.contract import Ranking, Subject, question_of
from gradprobe.probes.retention import IMAGES, PROBE, RetentionSettings
from gradprobe.settings import RANKED, check

K, SEEDS, TAU = 20, "0,1", "2.0:0.1"
SAME = "TRAINED AND TESTED ON THE SAME IMAGES: name a folder of others with --train-data DIR."


def _taus(text: Any) -> Any:
    """Parse one temperature schedule or several, separated by commas."""
    return tuple(dict.fromkeys(map(options.temperatures, text.split(",")))) if isinstance(text, str) else text


Ks = Annotated[
    str | None,
    typer.Option(
        "--k",
        parser=options.swept("k", int, "5,10,20"),
        metavar="<int,...>",
        help=f"Tokens kept, 1..N. Default: {K}.",
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        parser=options.swept("images", int, str(IMAGES)),
        metavar="<int,...>",
        help=f"Test images. Default: {IMAGES}, or what the folder has.",
    ),
]
Tau = Annotated[
    str,
    typer.Option(
        parser=_taus, metavar="<from:to,...>", help="From:to by a cosine; own: what the operator says, all along."
    ),
]
Denoiser = Annotated[str, typer.Option(help="Trained with the scorer: token, global or none.")]
Rankings = Annotated[
    str | None,
    typer.Option(
        help="Beside them: selectors and plans without training, divprune,fastv@2, ...; none. Default: the usual."
    ),
]
Average = Annotated[
    Any,
    typer.Option(
        parser=options.swept("average", float, "33,22,11"),
        metavar="<number,...>",
        help="Tokens that a layer of the language model reads on average, instead of --k.",
    ),
]
TrainData = Annotated[str | None, typer.Option(help="Folder to train on; the one of --data without it.")]


def _prepare(request: Request) -> None:
    """Keep 20 tokens unless told otherwise, and train once with each temperature schedule."""
    values = request.values
    if values["average"] is not None:
        if values["k"] is not None or values["keep"] is not None:
            raise UsageError("give one of --k, --keep and --average (tokens that a layer reads on average)")
        values["k"] = tuple(dict.fromkeys(max(1, round(each)) for each in values["average"]))
    elif values["k"] is None and values["keep"] is None:
        values["k"] = (K,)
    for each in request.settings:
        check(each)  # those of plans too, which are no training's
    settings = [
        replace(each, tau_start=first, tau_end=last, positions="keep")
        for each in request.settings
        for first, last in values["tau"]
    ]
    request.settings = list(dict.fromkeys(settings))


def _answer(request: Request, progress: Any) -> list[Any]:
    """Check all questions, then answer them seed by seed: the operators at each budget, and then the rankings."""
    images = request.task.available(IMAGES)
    request.settings = [replace(s, images=images) if s.images is None else s for s in request.settings]
    values = request.values
    plans = plans_asked(request.task, values["rankings"], request.budgets, values["average"])
    questions: list[tuple[Any, int, RetentionSettings]] = []
    for seed in dict.fromkeys(settings.seed for settings in request.settings):
        trained = [settings for settings in request.settings if settings.seed == seed]
        counts = dict.fromkeys(settings.images for settings in trained)
        questions += [(op, k, s) for k in request.budgets for op in request.operators.values() for s in trained]
        questions += [
            (Ranking(plan.label), plan.k, RetentionSettings(steps=0, images=count, seed=seed, positions=positions))
            for plan in plans
            for count in counts
            for positions in values["positions"]
        ]
    for operator, k, settings in questions:
        question_of(PROBE, Subject(request.task, operator, k), settings)
    answers = []
    for i, (operator, k, settings) in enumerate(questions):
        request.task = request.task.with_new_scorer(settings.seed)  # random weights are made once a seed
        answers.append(request.ask(operator, k, settings, progress, coming=questions[i + 1 :]))
    return answers


def _tabulate(request: Request) -> list[dict[str, Any]]:
    """Return a row for each operator or ranking and budget, over all seeds, and say what goes with the table."""
    from gradprobe.probes.retention.result import over_seeds, seed_groups

    groups, paths = seed_groups(request.results), {id(a.result): a.path for a in request.answers}
    seeds = list(dict.fromkeys(settings.seed for settings in request.settings))
    request.questions = [_pooled(group[0].question) for group in groups]
    request.shown["seeds"] = seeds
    counts, steps = (
        ", ".join(map(str, dict.fromkeys(getattr(settings, name) for settings in request.settings)))
        for name in ("images", "steps")
    )
    request.title = f"{request.backbone}, {counts} images, {steps} steps"
    bases = [group for group in groups if group[0].question["op"] == request.base]
    rows = [over_seeds(group, _base_of(group, bases), [paths[id(r)] for r in group]) for group in groups]
    request.rows, values, first = rows, request.values, request.questions[0]
    for row in rows:
        row |= tokens_read(request.task, row["op"], row["k"])
    request.notes += layer_lines(rows)
    if values["data"] is not None and values["train_data"] is None and first.get("task") != "captioning":
        request.warnings.append(SAME)
    if len(set(request.results[0].kind.tolist())) > 1:
        from gradprobe.data.pictures_text import KINDS
        from gradprobe.probes.retention.view import kind_lines

        request.notes.append("retention is the mean over kinds of questions:")
        request.notes += [f"  {line}" for line in kind_lines(labelled(request), KINDS)]
    request.places = _scorers(request.answers)
    return rows


def _pooled(question: dict[str, Any]) -> dict[str, Any]:
    """Return the question of a row over seeds; a ranking takes no steps, whatever the operators do."""
    ranking = str(question["op"]).startswith(RANKED)
    return {name: value for name, value in question.items() if name != "seed" and not (ranking and name == "steps")}


def _base_of(group: Sequence[Any], bases: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
    """Return the baseline's results to the same question; a ranking is asked with fewer settings than operators."""
    question = group[0].question
    ranking = str(question["op"]).startswith(RANKED)
    free = {"op", "op_code", "steps"} if ranking else {"op", "op_code"}

    def same(other: dict[str, Any]) -> bool:
        keys = {*question} if ranking else {*question, *other}
        return all(other.get(key) == question.get(key) for key in keys - free)

    matching = [base for base in bases if same(base[0].question)]
    return matching[0] if len(matching) == 1 and matching[0] is not group else None


def _scorers(answers: Sequence[Any]) -> list[str]:
    """Return the paths of the trained scorers, and the lines of Python that deploy the last."""
    from gradprobe.store.archive import file_names

    trained = [a for a in answers if "scorer.safetensors" in file_names(a.path)]
    lines = []
    for a in trained:
        q = a.result.question
        lines.append(f"scorer of {q['op']}, K = {q['k']}, seed {q['seed']}: {a.path}")
    if trained:
        path, q = trained[-1].path, trained[-1].result.question
        deploy = f"pruned = gp.prune(vit, scorer, k={q['k']})  # vit: the timm model"
        if q.get("task") == "captioning":
            deploy = f'pruned = gp.vlm.Pruner(gp.vlm.open_vlm("{q["backbone"]}"), scorer, gp.vlm.Budget(k={q["k"]}))'
        lines.append(f'to deploy the last in Python:\n  scorer = gp.load_scorer("{path}")\n  {deploy}')
    return lines


retention = command(
    PROBE,
    extra={
        "tau": (Tau, TAU),
        "denoiser": (Denoiser, "none"),
        "rankings": (Rankings, None),
        "average": (Average, None),
        "train_data": (TrainData, None),
    },
    replaced={
        "k": (Ks, None),
        "seed": (options.Seeds, SEEDS),
        "images": (Images, None),
        "tau_start": None,
        "tau_end": None,
    },
    prepare=_prepare,
    answer=_answer,
    tabulate=_tabulate,
)

"""A command for a probe, made from its declaration: settings become options, the view prints and draws."""

import dataclasses
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.cli.pooled import pool, several_seeds
from gradprobe.probes.contract import Probe
from gradprobe.settings import RANKED, Declared, asked, check, declared

MODEL: Mapping[str, tuple[Any, Any]] = {
    "scorer": (options.Scorer, "mlp"),
    "vlm": (options.Vlm, None),
    "backbone": (options.Backbone, "scenes"),
    "weights": (options.Weights, None),
    "weights_key": (options.WeightsKey, None),
    "image_size": (options.ImageSize, None),
    "data": (options.Data, None),
    "class_order": (options.ClassOrder, None),
    "layer": (options.Layer, 0),
    "loss": (options.Loss, "ce"),
}
NAMES = {"k": "K"}  # of keys, in a table
LISTS = (tuple, Sequence)  # annotations of settings whose value is a list
MACHINE: Mapping[str, tuple[Any, Any]] = {
    "device": (options.Device, "cpu"),
    "dtype": (options.Dtype, "float32"),
    "generator": (options.Generator, "auto"),
}


@dataclass(frozen=True)
class Drawing:
    """A file that a command writes of its answers.

    Attributes:
        help: of its option.
        check: refuse a path before the work is done.
        draw: ``(request, path) -> path``.
    """

    help: str
    check: Callable[[Path], None]
    draw: Callable[["Request", Path], Path]


@dataclass
class Request:
    """One call of a probe's command.

    Attributes:
        probe: that is asked.
        values: options as typed.
        operators: by canonical name, the baseline first.
        base: name of the baseline, None for none.
        settings: one for each combination of the lists that were typed.
        task: open; all questions share its frozen model.
        budgets: K, ascending.
        backbone: name of the model.
        title: of a figure; the model and the tokens kept, unless the probe has another.
        answers: in the order in which they were asked for.
        rows: as in JSON.
        questions: question of each row; those of the answers, unless a row stands for several.
        warnings: sentences for the terminal, before the table.
        notes: sentences for the terminal, after the probe's own.
        places: lines for the terminal, after the paths of the answers.
        shown: settings in JSON beside those of the questions.
        each_seed: rows of each seed, where those above are pooled.
        known: what the questions share, see `gradprobe.probes.contract.Resources`.
    """

    probe: Probe
    values: dict[str, Any]
    operators: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    settings: list[Any] = field(default_factory=list)
    task: Any = None
    budgets: list[int] = field(default_factory=list)
    backbone: str = ""
    title: str = ""
    answers: list[Any] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    each_seed: list[dict[str, Any]] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> list[Any]:
        """Results of the answers."""
        return [answer.result for answer in self.answers]

    def ask(
        self,
        operator: Any,
        k: int,
        settings: Any,
        progress: Any,
        probe: Probe | None = None,
        reference: Any = None,
        start: Any = None,
        coming: Sequence[tuple[Any, int, Any]] = (),
    ) -> Any:
        """Ask one question of the command's stores; ``coming`` are those that follow."""
        from gradprobe.probes.ask import ask
        from gradprobe.probes.contract import Resources, Subject
        from gradprobe.store.results import Store

        resources = Resources(
            workers=self.values.get("workers"), progress=progress, reference=reference, start=start, known=self.known
        )
        subject, stores = Subject(self.task, operator, k), [Store(self.values["results"])]
        others = [(Subject(self.task, each, count), own) for each, count, own in coming]
        return ask(probe or self.probe, subject, settings, stores, resources, self.values["force"], others)


def command(
    probe: Probe,
    *,
    extra: Mapping[str, tuple[Any, Any]] = types.MappingProxyType({}),
    replaced: Mapping[str, tuple[Any, Any] | None] = types.MappingProxyType({}),
    drawings: Mapping[str, Drawing] = types.MappingProxyType({}),
    prepare: Callable[[Request], None] | None = None,
    answer: Callable[[Request, Any], list[Any]] | None = None,
    tabulate: Callable[[Request], list[dict[str, Any]]] | None = None,
    told: Callable[[Request], dict[str, Any]] = lambda request: {},
) -> Callable[..., None]:
    """Return the command of a probe.

    Args:
        probe: its declaration.
        extra: options that are no setting: name -> (annotation, default); they follow the probe's own.
        replaced: options that this probe has another way, or None for one that it does not have.
        drawings: files that it writes beside ``--figure``.
        prepare: turn options into operators and settings, where they are not the same; called before a model is opened.
        answer: ``(request, progress) -> answers`` where asking each combination once is not all.
        tabulate: rows, where they are not one an answer.
        told: arguments of a result's ``row`` beside baseline and path.
    """
    every = {**_drawings(probe), **drawings}
    parameters = _parameters(probe, extra, replaced, every)

    def run(**values: Any) -> None:
        request = Request(probe, dict(values))
        _prepare(request, every)
        if prepare is not None:
            prepare(request)
        _check_budgets(request.values)
        for settings in request.settings:
            check(settings)
        request.settings = list({str(asked(each)): each for each in request.settings}.values())  # each question once
        _open(request)

        from gradprobe.cli.progress import bars

        with bars() as progress:
            request.answers = (answer or each_once)(request, progress)
        request.questions = [result.question for result in request.results]
        request.rows = tabulate(request) if tabulate else _rows(request, told(request))
        if tabulate is None and several_seeds(request):
            pool(request)
        varied = _varied(request)
        request.rows = [
            row | {key: question.get(key) for key in varied if key not in row}
            for row, question in zip(request.rows, request.questions, strict=True)
        ]
        if values["as_json"]:
            say_json(_json(request))
        else:
            _print(request)
        for name, drawing in every.items():
            if (path := values[name]) is not None:
                written = drawing.draw(request, path)
                if not values["as_json"]:
                    say(f"{name}: {written}")

    run.__name__, run.__doc__ = probe.name, probe.about
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=a, default=d)
            for n, (a, d) in parameters.items()
        ]
    )
    run.__annotations__ = {name: annotation for name, (annotation, _) in parameters.items()}
    return run


def _parameters(
    probe: Probe, extra: Mapping[str, tuple[Any, Any]], replaced: Mapping[str, Any], drawings: Mapping[str, Drawing]
) -> dict[str, tuple[Any, Any]]:
    """Return every option of the command in its order: name -> (annotation, default)."""
    own = {name: _option(probe.settings, name, each) for name, each in declared(probe.settings).items()}
    parameters: dict[str, tuple[Any, Any]] = {"op": (options.Op, inspect.Parameter.empty)}
    parameters |= {"k": (options.Ks, None), "keep": (options.Keeps, None)}
    parameters |= {"baseline": (options.Baseline, probe.baseline)} if probe.baseline else {}
    parameters |= {name: each for name, each in own.items() if name != "seed"} | dict(extra) | dict(MODEL)
    parameters |= {"seed": own["seed"]} if "seed" in own else {}
    parameters |= dict(MACHINE) | ({"workers": (options.Workers, None)} if probe.workers else {})
    parameters |= {"results": (options.Results, options.RUNS)}
    parameters |= {n: (Annotated[Path | None, typer.Option(help=d.help)], None) for n, d in drawings.items()}
    parameters |= {"as_json": (options.Json, False), "force": (options.Force, False)}
    parameters |= {name: each for name, each in replaced.items() if each is not None}
    return {name: each for name, each in parameters.items() if replaced.get(name, ()) is not None}


def _option(settings: type, name: str, each: Declared) -> tuple[Any, Any]:
    """Return the option of a setting; one value or several, but for truth values and settings that are lists."""
    default = next(f.default for f in dataclasses.fields(settings) if f.name == name)
    kind = _kind(typing.get_type_hints(settings)[name])
    if kind is bool:
        return Annotated[bool, typer.Option(f"--{each.option}", help=each.help)], default
    shown = ",".join(f"{x:g}" for x in default) if isinstance(default, tuple) else default
    example = options.KINDS[kind][2] if shown is None else str(shown)
    if each.option == "seeds":
        return options.Seeds, shown
    parser = options.seeds(each.option) if name == "seed" else options.swept(each.option, kind, example)
    option = typer.Option(f"--{each.option}", parser=parser, metavar=options.KINDS[kind][0], help=each.help)
    return Annotated[str, option], shown


def _kind(annotation: Any) -> type:
    """Return int, float, str or bool: the type of a setting, of its items if it is a list, without None."""
    arguments = [each for each in typing.get_args(annotation) if each not in (type(None), Ellipsis)]
    return _kind(arguments[0]) if arguments else annotation


def _prepare(request: Request, drawings: Mapping[str, Drawing]) -> None:
    """Check options and make settings: the product of the lists that were typed, the first changing slowest."""
    values, probe = request.values, request.probe
    for name, drawing in drawings.items():
        if values[name] is not None:
            drawing.check(values[name])
    fields = {name: values[name] for name in declared(probe.settings) if name in values}
    lists = {name: typing.get_origin(typing.get_type_hints(probe.settings)[name]) in LISTS for name in fields}
    choices = [
        value if isinstance(value, tuple) and not lists[name] else [_list(value) if lists[name] else value]
        for name, value in fields.items()
    ]
    request.settings = [probe.settings(**dict(zip(fields, each, strict=True))) for each in itertools.product(*choices)]


def _check_budgets(values: Mapping[str, Any]) -> None:
    """Refuse tokens kept that are given twice or not at all, and shares out of range."""
    if (values.get("k") is None and values.get("keep") is None) or None not in (values.get("k"), values.get("keep")):
        options.check_budget(values.get("k"), values.get("keep"))
    for share in values.get("keep") or ():
        options.check_budget(None, share)


def _list(value: Any) -> tuple:
    """Return the value of a setting that is a list; a default comes as the text that ``--help`` shows."""
    return value if isinstance(value, tuple) else tuple(value)


def _open(request: Request) -> None:
    """Name the operators and open the task, once."""
    values = request.values
    if not request.operators:
        request.operators, request.base = options.operators(values["op"], values.get("baseline", "none"))
    make, request.backbone = options.task_maker(values["vlm"], values["backbone"])
    names = {name: values[name] for name in (*MODEL, *MACHINE) if name in values and name != "vlm"}
    names |= {name: values[name] for name in ("train_data", "denoiser") if name in values}
    seed = getattr(request.settings[0], "seed", 0)
    request.task = make(request.backbone, **{n: v for n, v in names.items() if n != "backbone"}, seed=seed)
    n = request.task.n_tokens
    shares = [options.budget(None, share, n) for share in values.get("keep") or ()]
    request.budgets = request.budgets or sorted({*(values.get("k") or ()), *shares})
    request.title = f"{request.backbone}, K = {', '.join(map(str, request.budgets))} of {n}"


def each_once(request: Request, progress: Any) -> list[Any]:
    """Answer every question once."""
    return [request.ask(operator, k, settings, progress) for operator, k, settings in combinations(request)]


def combinations(request: Request) -> list[tuple[Any, int, Any]]:
    """Return every combination of operator, K and settings.

    Raises:
        UsageError: one of them is not possible; nothing was measured yet.
    """
    from gradprobe.probes.contract import Subject, question_of

    each = list(itertools.product(request.operators.values(), request.budgets, request.settings))
    for operator, k, settings in each:
        question_of(request.probe, Subject(request.task, operator, k), settings)
    return each


def _rows(request: Request, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each answer, compared with the baseline's answer to the same question."""
    bases = {_but_operator(a.result): a for a in request.answers if a.result.question.get("op") == request.base}
    rows = []
    for a in request.answers:
        other = bases.get(_but_operator(a.result))
        base = None if other is None or other is a else other.result
        rows.append(a.result.row(baseline=base, path=a.path, **arguments))
    return rows


def _but_operator(result: Any) -> str:
    return str(sorted((n, str(v)) for n, v in result.question.items() if n not in ("op", "op_code")))


def _varied(request: Request) -> list[str]:
    """Return the keys, beside those in which rows of this probe always may, in which they differ.

    A key that only some questions have, such as the learning rate of a training, counts if no other tells them apart.
    """
    questions, always = _unranked(request), ("op", *request.probe.varied)
    keys = dict.fromkeys(key for question in questions for key in question if key not in (*always, "op_code"))
    varied = [key for key in keys if len({str(q[key]) for q in questions if key in q}) > 1]
    if len({str([q.get(key) for key in (*always, *varied)]) for q in questions}) == len(questions):
        return varied
    return [key for key in keys if len({str(q.get(key)) for q in questions}) > 1]


def _unranked(request: Request) -> list[dict[str, Any]]:
    """Return the questions about operators; those about rankings beside them have fewer settings."""
    return [question for question in request.questions if not str(question.get("op")).startswith(RANKED)]


def _settings(request: Request) -> dict[str, Any]:
    """Return what the answers share, and the baseline; a learning rate is of those that train."""
    hidden = {"op", "op_code", *request.probe.varied, *_varied(request)}
    common: dict[str, Any] = {}
    for question in _unranked(request) or request.questions:
        common = question | common
    shown = {name: value for name, value in common.items() if name not in hidden}
    return shown | ({"baseline": request.base} if request.probe.baseline else {}) | request.shown


def _json(request: Request) -> dict[str, Any]:
    path = str(request.values["results"])
    each_seed = {"each_seed": request.each_seed} if request.each_seed else {}
    rows = {"rows": request.rows, **each_seed}
    return {"probe": request.probe.name, "settings": _settings(request), **rows, "path": path}


def labelled(request: Request) -> list[dict[str, Any]]:
    """Return the rows for people: with N, and with names that tell them apart where lists were typed."""
    varied = _varied(request)
    rows = []
    for row, question in zip(request.rows, request.questions, strict=True):
        parts = ", ".join(f"{NAMES.get(key, key)} = {question[key]}" for key in varied if key in question)
        rows.append({"tokens": request.task.n_tokens} | row | ({"op": f"{row['op']} ({parts})"} if parts else {}))
    return rows


def _print(request: Request) -> None:
    from gradprobe.cli.screen import Screen

    view, console, rows = request.probe.part("view"), Screen(), labelled(request)
    options.warn_random(console, str(request.questions[0].get("weights")))
    for warning in request.warnings:
        console.print(warning, style="bold")
    console.print(view.table(rows))
    for line in [*view.lines(rows, request.base), *request.notes]:
        console.print(line)
    if meaning := view.meaning(rows):
        console.print(meaning)
    options.print_sources(console, request.answers)
    for line in request.places:
        console.print(line, soft_wrap=True)


def _drawings(probe: Probe) -> dict[str, Drawing]:
    """Return the option for the probe's figure, if it has one."""

    def check_figure(path: Path) -> None:
        from gradprobe.plotting.style import check_path

        check_path(path)

    def draw(request: Request, path: Path) -> Path:
        from gradprobe.plotting.style import save_figure

        return save_figure(probe.part("figure")(request.results, labelled(request), request.title), path)

    help = "Draw the result into this .png, .svg or .pdf."
    return {"figure": Drawing(help, check_figure, draw)} if probe.figure else {}

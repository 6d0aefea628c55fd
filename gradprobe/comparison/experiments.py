"""Presets: ``experiments/*.toml`` -> the questions they ask, answered from stores or, if missing, by running them.

A preset names its figure, the paper's values, and its runs. ``[question]`` holds the fields that all runs share, a
``[[run]]`` those of its own; a list stands for one run each (lists multiply), and the operator ``registered`` for every
one that has a name. ``[where]`` says where weights and data
lie on this machine ($VARIABLES are expanded) and is no part of the question: fingerprints are.
"""

import itertools
import json
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.files import open_regular
from gradprobe.operators.built_in import ALIASES, RELAXATIONS, THROTTLES
from gradprobe.parallel.driver import Asked, Crew, answer_all
from gradprobe.probes import probe_of
from gradprobe.probes.ask import stored
from gradprobe.probes.contract import Progress, Resources, check_keys, codes_of
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.settings import RANKED, settings_from
from gradprobe.store.presets import shipped
from gradprobe.store.results import Store, key_of

KINDS = {
    "op": "operator",
    "scorer": "scorer",
    "denoiser": "denoiser",
    "scores": "plan",
}  # fields of a question that name code
ALONE = Crew()
REGISTERED = "registered"  # in the place of an operator's name: every one that has a name
CONFIGURED = ("cost_table",)  # figures of configurations alone, whose presets ask nothing


@dataclass(frozen=True)
class Run:
    """One question of an experiment: the panel it is drawn in, and where its files are said to be."""

    panel: str
    question: dict[str, Any]
    where: dict[str, str]


@dataclass(frozen=True)
class Experiment:
    """A preset as read from its file.

    Attributes:
        name: the file's name without suffix.
        title: what it is, for people.
        figure: the name of the function that draws it.
        claim: what the paper says, in a sentence.
        baseline: the operator that the others are compared with.
        paper: the paper's values, a table each.
        runs: every question, in the order of the file.
        confirm: what was fixed before the questions were asked, where the preset is a test; see
            `gradprobe.comparison.confirm`.
        table: the model that a table is about, and its columns; see `gradprobe.comparison.selector_table`.
    """

    name: str
    title: str
    figure: str
    claim: str
    baseline: str
    paper: tuple[dict[str, Any], ...]
    runs: tuple[Run, ...]
    confirm: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A run, its result, the folder it lies in, and whether it was computed now."""

    run: Run
    result: Any
    path: Path
    computed: bool


@dataclass(frozen=True)
class Missing:
    """A run without a result, and why."""

    run: Run
    reason: str


def load_experiment(path: Path | str, trust: Collection[Path | str] = ()) -> Experiment:
    """Read a preset.

    Args:
        path: a TOML file with ``title``, ``figure``, ``claim``, ``baseline``, ``[[paper]]``, ``[confirm]``,
            ``[table]``, ``[where]``, ``[question]`` and ``[[run]]`` (``panel``, ``where`` and fields that override);
            the last two are left out where the figure is one of `CONFIGURED`. ``experiments/...`` is gradprobe's own
            where there is none here.
        trust: Python files that it may name and that may run.

    Raises:
        UsageError: the file is not there, not TOML, lacks a key, has an unknown one, names Python code that is not
            trusted, or asks a question twice.
    """
    path = shipped(path)
    try:
        with open_regular(path) as file:
            preset = tomllib.loads(file.read().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the preset {path}: {error}") from None
    kinds: dict[str, type[Any]] = {"title": str, "figure": str, "claim": str, "baseline": str}
    optional: dict[str, type[Any]] = {"paper": list, "where": dict, "confirm": dict, "table": dict}
    kinds |= {} if preset.get("figure") in CONFIGURED else {"question": dict, "run": list}
    for name in preset:
        if name not in kinds | optional:
            raise UsageError(f"{path} has an unknown key {name!r}: {nearest(name, kinds | optional)}")
    for name, kind in (kinds | optional).items():
        value = preset.get(name, kind() if name in optional else None)
        if not isinstance(value, kind) or (kind is list and not all(isinstance(table, dict) for table in value)):
            what = "text" if kind is str else f"[[{name}]] tables" if kind is list else f"a [{name}] table"
            raise UsageError(f"{path} needs {name!r} as {what}; see experiments/fig1c_coherence.toml")
    tables = preset.get("run", [])
    for table in (preset.get("question", {}), *tables):
        _check_names(table, path, trust)
    runs = [run for table in tables for run in _runs(table, preset)]
    try:
        keys = [(run.panel, key_of(run.question)) for run in runs]
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    for run, key in zip(runs, keys, strict=True):
        if keys.count(key) > 1:
            raise UsageError(f"{path} asks the same question twice in panel {run.panel!r}: {json.dumps(run.question)}")
        _check_settings(run.question, path)
    head = {name: preset[name] for name in ("title", "figure", "claim", "baseline")}
    paper = tuple(preset.get("paper", []))
    others = {name: preset.get(name, {}) for name in ("confirm", "table")}
    return Experiment(name=path.stem, paper=paper, runs=tuple(runs), **others, **head)


def run_experiment(
    experiment: Experiment, stores: Sequence[Store], progress: Progress | None = None, draw_only: bool = False,
    crew: Crew = ALONE,
) -> tuple[list[Answer], list[Missing]]:  # fmt: skip
    """Answer every question of a preset: from the first store that has it, else by running its probe.

    Args:
        experiment: the preset.
        stores: searched in order; what is computed is saved in the last.
        progress: called with (description, done, of how many).
        draw_only: compute nothing.
        crew: the processes that answer.

    Returns:
        The answers, and the runs that stay without one, each with the reason; one that cannot be answered (no files
        on this machine, say) does not stop the rest.
    """
    answers: list[Answer] = []
    missing: list[Missing] = []
    tasks, resources = OpenTasks(), Resources(progress=progress)
    done = _done_by(crew, experiment, stores, progress) if crew.many and not draw_only else {}
    for i, run in enumerate(experiment.runs):
        try:
            key = key_of(run.question)
            if reason := done.get(key):
                raise GradprobeError(reason)
            answer = stored(run.question, stores)
            if answer is not None and key in done:
                answer = replace(answer, computed=True)
            if answer is None:
                if draw_only:
                    raise GradprobeError("not stored; run again without --draw-only to compute it")
                where = {name: _expand(name, value) for name, value in run.where.items()}
                means = replace(resources, workers=_workers(where)) if "workers" in where else resources
                coming = [other.question for other in experiment.runs[i + 1 :] if other.where == run.where]
                answer = answered(run.question, where, stores, tasks, means, coming=coming)
            answers.append(Answer(run, answer.result, answer.path, answer.computed))
        except GradprobeError as error:
            missing.append(Missing(run, str(error)))
    return answers, missing


def _done_by(crew: Crew, experiment: Experiment, stores: Sequence[Store], progress: Progress | None) -> dict[str, str]:
    """Have a crew answer what no store has; return, by key, why one stays without an answer, empty for the others."""
    asked, reasons = [], {}
    for run in experiment.runs:
        if any(store.find(run.question) is not None for store in stores):
            continue
        try:
            asked.append(Asked(run.question, {name: _expand(name, value) for name, value in run.where.items()}))
            reasons[key_of(run.question)] = ""
        except GradprobeError as error:
            reasons[key_of(run.question)] = str(error)
    return reasons | answer_all(asked, stores, crew, progress)


def panels(answers: Sequence[Answer]) -> list[tuple[str, list[Any]]]:
    """Group the results into panels, in the order of the preset."""
    drawn: dict[str, list[Any]] = {}
    for answer in answers:
        drawn.setdefault(answer.run.panel, []).append(answer.result)
    return list(drawn.items())


def row_panels(experiment: Experiment, answers: Sequence[Answer]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the answers as rows, grouped into panels, each row compared with its own baseline.

    A row's baseline is the answer of its panel to the same question asked of ``experiment.baseline``.
    """
    drawn: dict[str, list[dict[str, Any]]] = {}
    every = [(answer, (answer.run.panel, _of_any_operator(answer.run.question))) for answer in answers]
    bases = {key: answer.result for answer, key in every if answer.run.question["op"] == experiment.baseline}
    for answer, key in every:
        asked, base = answer.run.question, bases.get(key)
        base = None if asked["op"] == experiment.baseline else base
        drawn.setdefault(answer.run.panel, []).append(answer.result.row(baseline=base, path=answer.path))
    return list(drawn.items())


def _of_any_operator(question: Mapping[str, Any]) -> str:
    return key_of({name: value for name, value in question.items() if name not in ("op", "op_code")})


def _runs(table: Mapping[str, Any], preset: Mapping[str, Any]) -> list[Run]:
    """Return the runs of one [[run]]: the product of its lists, the first changing slowest."""
    own = {name: value for name, value in table.items() if name not in ("panel", "where")}
    fields = own | {name: value for name, value in preset["question"].items() if name not in own}
    where = {**preset.get("where", {}), **table.get("where", {})}
    if REGISTERED in (asked := fields.get("op", [])):
        from gradprobe.operators import registry  # torch

        named = [
            each
            for op in (asked if isinstance(asked, list) else [asked])
            for each in (registry.registered() if op == REGISTERED else [op])
        ]
        fields["op"] = list(dict.fromkeys(named))
    choices = [value if isinstance(value, list) else [value] for value in fields.values()]
    panel = str(table.get("panel", preset["title"]))
    questions = [dict(zip(fields, values, strict=True)) for values in itertools.product(*choices)]
    return [Run(panel, _codes(question) | question, where) for question in questions]


def _codes(question: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of third parties' code that a question names; what cannot be imported is told when asked."""
    op, codes = str(question.get("op", "")), dict[str, str]()
    parts = [part.partition(":")[0] for part in op.split("+", 1)]
    with suppress(GradprobeError):
        if op and not op.startswith(RANKED) and not {*parts} <= {*ALIASES, *RELAXATIONS, *THROTTLES}:
            from gradprobe.operators import registry  # torch

            code = registry.code_of(registry.build(op))
            codes |= {} if code is None else {"op_code": code}
        codes |= codes_of(question)
    return codes


def _check_settings(question: Mapping[str, Any], path: Path) -> None:
    """Refuse a question without a probe, with a key that its probe does not know, or that lacks one of its settings."""
    try:
        probe = probe_of(str(question.get("probe")))
        check_keys(probe, question)
        settings_from(probe.settings, question)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _check_names(table: Mapping[str, Any], path: Path, trust: Collection[Path | str]) -> None:
    """Refuse names of Python files in a table of a preset that the user does not trust."""
    from gradprobe.operators.registry import check_trusted

    for part, kind in KINDS.items():
        values = table.get(part)
        for value in values if isinstance(values, list) else [values]:
            check_trusted(kind, value, path, trust)


def _workers(where: Mapping[str, str]) -> int:
    """Return the number of threads that [where] names."""
    if not where["workers"].isdecimal() or not int(where["workers"]):
        raise UsageError(f'workers = "{where["workers"]}" is not possible; write a number of threads, such as "2"')
    return int(where["workers"])


def _expand(name: str, value: str) -> str:
    """Expand the $VARIABLES of a value of [where]."""
    try:
        return Template(value).substitute(os.environ)
    except KeyError as error:
        raise GradprobeError(f"{name} is in {value}; set the variable: export {error.args[0]}=FOLDER") from None
    except ValueError:
        raise GradprobeError(f"{name} is in {value}, which is no path; write variables as $NAME") from None

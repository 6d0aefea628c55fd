"""The declaration of a probe and the arguments of a measurement; importing this module imports no torch.

A probe is a folder with three files: ``__init__.py`` declares its `Probe` and settings, ``measure.py`` holds
``(subject, settings, resources) -> result`` and the result class, ``view.py`` its columns. The driver (`probes.ask`)
knows nothing else of it: it asks, makes rows, prints and draws.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gradprobe.budget import budget, check_budget, check_k
from gradprobe.errors import GradprobeError, UsageError, in_words, nearest
from gradprobe.operators import registry
from gradprobe.operators.user_files import PATH
from gradprobe.ranges import check_number
from gradprobe.settings import RANKED, argument, asked, check, declared

if TYPE_CHECKING:
    from gradprobe.core import AnyOperator, Task

Progress = Callable[[str, int, int], None]
TASK = (  # keys of a question that the task decides
    "task", "backbone", "weights", "weights_key", "image_size", "data", "class_order", "train_data", "layer", "loss",
    "scorer", "scorer_code", "denoiser", "denoiser_code", "dtype", "generator",
)  # fmt: skip
OWN = ("probe", "op", "op_code", "probe_code", "k")  # and those of the subject


@dataclass(frozen=True)
class Ranking:
    """Selection that needs no training, by the label of its plan (`gradprobe.selectors.plan`), such as ``fastv@2``."""

    name: str


@dataclass(frozen=True)
class Subject:
    """Subject of a measurement: an operator, on a task, that keeps K of its N tokens.

    Attributes:
        task: open, with a scorer of its own.
        operator: that selects; a `Ranking` where nothing is trained, None where a question names none.
        k: K, the tokens kept.
    """

    task: Any
    operator: Any
    k: int

    @classmethod
    def of(cls, task: "Task", operator: "AnyOperator", given: "Budget") -> "Subject":
        """Return the subject of a caller's words: a name, class or object, and K or a share of N.

        Raises:
            UsageError: an unknown name, no operator, no task, or not exactly one of ``k`` and ``keep``.
        """
        return cls(task, registry.build(operator), tokens_kept(task, given.k, given.keep))

    @property
    def name(self) -> str:
        """Canonical name of the operator."""
        return f"{RANKED}{self.operator.name}" if isinstance(self.operator, Ranking) else registry.label(self.operator)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Means of a measurement, on which its numbers do not depend.

    Attributes:
        workers: threads, each running torch on one; None: as many as torch has.
        folder: where unfinished pieces are kept, so that a killed run resumes; None: nowhere.
        progress: called with (description, done, of how many).
        reference: answer to another question that this one is measured against.
        start: answer to the same question with fewer draws, to go on from.
        ask: ``(probe, subject, settings) -> result``: another question, answered from the same stores; None: no stores.
        together: measure alike questions side by side; None: on a GPU.
        known: test images and outcomes of the unpruned model by what decides them, shared by the questions of a run.
    """

    workers: int | None = None
    folder: Path | str | None = None
    progress: Progress | None = None
    reference: Any = None
    start: Any = None
    ask: Callable[..., Any] | None = None
    together: bool | None = None
    known: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, given: Any) -> "Resources":
        """Return the resources among a function's arguments.

        Raises:
            UsageError: a number of workers that is not possible.
        """
        values = {f.name: getattr(given, f.name) for f in fields(cls) if hasattr(given, f.name)}
        if values.get("workers") is not None:
            check_number("workers", values["workers"])
        return cls(**values)

    def report(self, description: str, done: int, total: int) -> None:
        """Pass progress on, if anybody listens."""
        if self.progress is not None:
            self.progress(description, done, total)


@dataclass(frozen=True)
class Budget:
    """Arguments for the tokens kept, common to all probes."""

    k: int | None = argument(None, "Tokens kept, 1..N; or ``keep`` instead.", keyword=False)
    keep: float | None = argument(None, "Tokens kept as a share of N, in (0, 1].")


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """The argument for progress, common to all probes."""

    progress: Progress | None = argument(None, "Called with (description, done, of how many).")


@dataclass(frozen=True, kw_only=True)
class Threads:
    """The argument for threads, of probes that share their work out."""

    workers: int | None = argument(
        None, "Threads, each running torch on one; the numbers do not depend on it. None: as many as torch has."
    )


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """The argument for the folder of unfinished work."""

    folder: Path | str | None = argument(
        None, "Folder for finished pieces, so that a killed run goes on from them; the caller's to remove."
    )


@dataclass(frozen=True)
class Probe:
    """All that everything else must know of a probe.

    Names of code are ``module:attribute`` strings, so that declaring a probe imports nothing; the objects themselves
    do as well.

    Attributes:
        name: as typed; the command's name.
        about: first line and, after a blank line, more for ``--help``.
        settings: frozen dataclass whose fields are made by `gradprobe.settings.setting`.
        measure: ``(subject, settings, resources) -> result``.
        result: frozen dataclass with ``question``, ``environment`` and ``row(baseline, path)``.
        view: module or object with ``table(rows)``, ``lines(rows, baseline)`` and ``meaning(rows)``.
        check: ``(subject, settings) -> extra``: refuse what the task cannot do; keys that the question also has, None
            for one that it does not have. None: nothing to check.
        compared: its place in comparisons, leaderboards and pages: a module or object with ``METRICS`` and any of
            ``asked``, ``grids``, ``figure``, ``row``,
            ``QUESTION``, ``BUDGET``, see `gradprobe.probes.metrics`, and ``POOLED``, the numbers that are pooled over
            seeds, see `gradprobe.probes.seeds`. None: it has none.
        baseline: operator that the command measures beside those asked; empty: none.
        varied: keys of the question in which rows of one table differ by default.
        workers: whether it shares its work out to threads.
        command: whether it is a command.
        figure: ``(results, rows, title) -> matplotlib figure``; None: the probe draws none.
        cites: keys of `gradprobe.operators.citations`.
        keys: keys of the question that ``check`` adds.
        side_by_side: module or object with ``alike(one, other)``, whether two questions, each a subject with its
            settings, can be measured together, and ``measure_all(subjects, settings, resources) -> results``. None:
            each is measured alone.
        alone: whether its numbers are timings, which nothing else may disturb on the same machine: however many
            processes answer questions, its own are answered one after another when all others are done.
    """

    name: str
    about: str
    settings: type
    measure: str | Callable[..., Any]
    result: str | type
    view: Any
    check: str | Callable[..., Mapping[str, Any]] | None = None
    compared: Any = None
    baseline: str = "gumbel"
    varied: tuple[str, ...] = ()
    workers: bool = False
    command: bool = True
    figure: str | Callable[..., Any] | None = None
    cites: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    side_by_side: Any = None
    alone: bool = False

    def part(self, name: Literal["measure", "result", "view", "check", "compared", "figure", "side_by_side"]) -> Any:
        """Return a part that is named by ``module:attribute``, imported when it is needed; None if absent."""
        value = getattr(self, name)
        if not isinstance(value, str):
            return value
        module, _, attribute = value.partition(":")
        imported = importlib.import_module(module)
        return getattr(imported, attribute) if attribute else imported


def tokens_kept(task: Any, k: int | None, keep: float | None) -> int:
    """Return K from a number of tokens or their share of N; its range is checked with the question.

    Raises:
        UsageError: no task, or not exactly one of ``k`` and ``keep``.
    """
    if not hasattr(task, "n_tokens"):
        raise UsageError(
            f"{in_words(task)} is no task; make one with gradprobe.classification('scenes'), and pass it first"
        )
    check_budget(k, keep)
    return budget(k, keep, task.n_tokens)


def question_of(probe: Probe, subject: Subject, settings: Any) -> dict[str, Any]:
    """Return the question that a measurement answers: all that decides its numbers, in JSON types.

    Raises:
        UsageError: a number or name outside what is possible.
    """
    check_k(subject.k, subject.task.n_tokens)
    check(settings)
    checking = probe.part("check")
    extra = dict(checking(subject, settings)) if checking else {}
    question = {"probe": probe.name, "op": None, "k": subject.k, **asked(settings), **subject.task.question}
    if subject.operator is not None:
        question |= {"op": subject.name, "op_code": registry.code_of(subject.operator)}
    if not probe.settings.__module__.startswith("gradprobe."):
        question["probe_code"] = registry.code_of(probe.part("measure"))  # stored answers do not outlive the code
    question = {name: value for name, value in {**question, **extra}.items() if value is not None}
    return question | codes_of(question)


def codes_of(question: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of a user's Python code that makes the scorer and the denoiser of a question, by their keys.

    Raises:
        GradprobeError: its code raised.
    """
    named = {kind: str(question.get(kind)) for kind in ("scorer", "denoiser")}
    parts = {kind: registry.part(kind, name) for kind, name in named.items() if PATH.match(name)}
    codes = {f"{kind}_code": registry.code_of(each) for kind, each in parts.items()}
    return {name: code for name, code in codes.items() if code is not None}


def check_keys(probe: Probe, question: Mapping[str, Any]) -> None:
    """Refuse a question with a key that neither the probe nor a task has.

    Raises:
        UsageError: names the key and the nearest known one.
    """
    known = {*OWN, *TASK, *probe.keys, *(each.key for each in declared(probe.settings).values())}
    for name in question:
        if name not in known:
            raise UsageError(f"{probe.name} has no setting {name!r}: {nearest(name, known)}")


def check_same(here: Mapping[str, Any], question: Mapping[str, Any]) -> None:
    """Refuse to answer a question about other things than this machine has.

    Raises:
        GradprobeError: the message names what differs.
    """
    if other := [name for name in sorted({*here, *question}) if here.get(name) != question.get(name)]:
        differences = ", ".join(f"{name} {question.get(name)} (here {here.get(name)})" for name in other)
        raise GradprobeError(f"the question is about {differences}; give the files that it is about")

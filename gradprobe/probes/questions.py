"""What the probes share in asking and answering: a task from a stored question, and where and when it was answered."""

import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from gradprobe.budget import budget, check_budget
from gradprobe.core import AnyOperator, SelectionOperator, Task
from gradprobe.errors import GradprobeError, UsageError, in_words
from gradprobe.models.own_models import STATE
from gradprobe.operators import registry
from gradprobe.ranges import check_number
from gradprobe.tasks import maker

Progress = Callable[[str, int, int], None]
QUESTION = "the question"  # where names come from that no user typed in this process


def operator_and_k(
    task: Task, operator: AnyOperator, k: int | None, keep: float | None
) -> tuple[SelectionOperator, int]:
    """The operator and the number of tokens that a caller means.

    Args:
        task: of the probe.
        operator: itself, its name or its class.
        k: tokens kept, 1..N; None where ``keep`` is given.
        keep: their share of N, in (0, 1].

    Raises:
        UsageError: an unknown name, what is no operator or no task, or not exactly one of ``k`` and ``keep``.
    """
    return registry.build(operator), tokens_kept(task, k, keep)


def tokens_kept(task: Task, k: int | None, keep: float | None) -> int:
    """K from a number of tokens or their share of N; its range is checked with the question.

    Raises:
        UsageError: what is no task, or not exactly one of ``k`` and ``keep``.
    """
    if not hasattr(task, "n_tokens"):
        raise UsageError(
            f"{in_words(task)} is no task; make one with gradprobe.classification('scenes'), and pass it first"
        )
    check_budget(k, keep)
    return budget(k, keep, task.n_tokens)


def asked_of(probe: str, task: Task, operator: SelectionOperator, k: int, settings: Mapping[str, Any]) -> dict:
    """A question: the probe, operator and budget, its own settings, what the task is, and a third party's code."""
    asked = {"probe": probe, "op": registry.label(operator), "k": k, **settings, **task.question}
    code = registry.code_of(operator)
    return asked | ({"op_code": code} if code else {})


def operator_of(question: Mapping[str, Any]) -> Any:
    """The operator that a stored question names; Python files that the user has not named do not run.

    Raises:
        UsageError: an unknown name, or a path that is not trusted.
    """
    registry.check_trusted("operator", question["op"], QUESTION)
    return registry.build(question["op"])


def check_counts(counts: Mapping[str, tuple[int, int]]) -> None:
    """Refuse counts outside their range, whose least value the probe gives: ``{option: (value, least)}``.

    Raises:
        UsageError: one that is no whole number, too small or too large.
    """
    for option, (value, least) in counts.items():
        check_number(option, value, least)


def task_of(question: Mapping[str, Any], where: Mapping[str, str]) -> Any:
    """The task that a stored question is about, with the files of this machine.

    Args:
        question: as a probe's ``question_of`` writes it.
        where: ``weights``, ``data``, ``train_data`` and ``device``, where they differ from the defaults.

    Raises:
        GradprobeError: it is about a model that a Python program handed over, which no file holds.
    """
    q = question
    if str(q["weights"]).startswith(STATE):
        raise GradprobeError(
            f"the question is about a model that Python code handed over ({q['weights']}); ask it there, or save the "
            "weights and name their file with --weights"
        )
    for kind in ("scorer", "denoiser"):
        registry.check_trusted(kind, q.get(kind), QUESTION)
    weights = where.get("weights", "none" if str(q["weights"]).startswith("random:") else None)
    return maker(q.get("task", "classification"))(
        q["backbone"], weights=weights, data=where.get("data"), train_data=where.get("train_data"), layer=q["layer"],
        loss=q["loss"], scorer=q["scorer"], seed=q["seed"], device=where.get("device", "cpu"), dtype=q["dtype"],
        denoiser=q.get("denoiser", "none"), weights_key=q.get("weights_key"), image_size=q.get("image_size"),
        class_order=q.get("class_order"),
    )  # fmt: skip


def check_same(here: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to answer a question about other things than this machine has.

    Raises:
        GradprobeError: the message names what differs.
    """
    if other := [name for name in sorted({*here, *asked}) if here.get(name) != asked.get(name)]:
        told = ", ".join(f"{name} {asked.get(name)} (here {here.get(name)})" for name in other)
        raise GradprobeError(f"the question is about {told}; give the files that it is about")


def versions() -> dict[str, str]:
    """Of what decides the last bits of a result."""
    return {package: version(package) for package in ("gradprobe", "torch", "timm", "numpy")}


def environment(seconds: float, skipped: tuple[str, ...]) -> dict[str, Any]:
    """Return the circumstances of an answer: versions, machine, seconds and date; no part of the question."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "seconds": round(seconds, 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipped": list(skipped),
    }

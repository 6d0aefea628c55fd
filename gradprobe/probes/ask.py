"""The driver of the probes: a question is answered from a store, else measured and saved."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, Notice
from gradprobe.probes.contract import Probe, Resources, Subject, check_same, question_of
from gradprobe.store.leftovers import FORCED
from gradprobe.store.results import Store

Question = tuple[Subject, Any]  # with its settings
MOST = 8  # questions measured side by side


@dataclass(frozen=True)
class Answer:
    """Answer to a question.

    Attributes:
        result: of the probe.
        path: where it is stored.
        computed: whether it was computed now.
    """

    result: Any
    path: Path
    computed: bool


def stored(question: Mapping[str, Any], stores: Sequence[Store]) -> Answer | None:
    """Return the answer of the first store that has one.

    Raises:
        GradprobeError: it is damaged.
    """
    for store in stores:
        if (path := store.find(question)) is not None:
            return Answer(store.load(path), path, computed=False)
    return None


def ask(
    probe: Probe,
    subject: Subject,
    settings: Any,
    stores: Sequence[Store],
    resources: Resources = Resources(),
    force: bool = False,
    coming: Sequence[Question] = (),
) -> Answer:
    """Answer a question: from the first store that has the answer, else by a measurement that is saved in the last.

    The task is measured with a fresh scorer and denoiser of the question's seed; its frozen model is shared by all
    questions that are asked of it.

    Args:
        probe: that measures.
        subject: of the question; its task is open.
        settings: of the probe.
        stores: searched in order.
        resources: threads, progress and answers that the measurement needs.
        force: measure even if an answer is stored; the new one replaces that of the last store.
        coming: questions that will be asked later: those that the probe can measure side by side with this one are
            answered with it, and stored.

    Raises:
        GradprobeError: a stored answer is damaged, or the question cannot be answered on this machine.
    """
    subject, question = _fresh(probe, subject, settings)
    if not force and (answer := stored(question, stores)) is not None:
        return answer
    with ExitStack() as held:
        partial = held.enter_context(stores[-1].working(question, force))
        if not force and (answer := stored(question, stores[-1:])) is not None:  # another process worked on it till now
            return answer
        work = [_Work(subject, settings, question, partial)]
        if not force:
            work += _beside(probe, work[0], coming, stores, resources, held)
        results = _measured(probe, work, stores, resources)
        paths = [_saved(result, each, stores[-1]) for result, each in zip(results, work, strict=False)]
    return Answer(results[0], paths[0], computed=True)


@dataclass(frozen=True)
class _Work:
    """A question that is about to be answered, and the folder of its pieces."""

    subject: Subject
    settings: Any
    question: dict[str, Any]
    partial: Path


def _fresh(probe: Probe, subject: Subject, settings: Any) -> tuple[Subject, dict[str, Any]]:
    """Return a subject with a fresh scorer of the settings' seed, and the question."""
    subject = replace(subject, task=subject.task.with_new_scorer(getattr(settings, "seed", 0)))
    return subject, question_of(probe, subject, settings)


def _beside(
    probe: Probe, first: _Work, coming: Sequence[Question], stores: Sequence[Store], resources: Resources,
    held: ExitStack,
) -> list[_Work]:  # fmt: skip
    """Return coming questions without an answer that are measured side by side with the first one."""
    device = next(first.subject.task.scorer.parameters()).device
    if probe.side_by_side is None or not (device.type != "cpu" if resources.together is None else resources.together):
        return []
    alike, found = probe.part("side_by_side").alike, [first]
    for subject, settings in coming:
        if len(found) == MOST or not alike((first.subject, first.settings), (subject, settings)):
            continue
        own, question = _fresh(probe, subject, settings)
        if not alike((first.subject, first.settings), (own, settings)):  # random weights are another model by now
            continue
        if stored(question, stores) is not None or any(each.question == question for each in found):
            continue
        try:
            partial = held.enter_context(stores[-1].working(question))
        except GradprobeError:  # another process is at it
            continue
        if stored(question, stores[-1:]) is None:
            found.append(_Work(own, settings, question, partial))
    return found[1:]


def _measured(probe: Probe, work: Sequence[_Work], stores: Sequence[Store], resources: Resources) -> list[Any]:
    """Return the results of questions measured side by side; of the first alone where that fails."""

    def another(probe: Probe, subject: Subject, settings: Any) -> Any:
        return ask(probe, subject, settings, stores, resources).result

    means = [replace(resources, folder=each.partial, ask=another) for each in work]
    if len(work) > 1:
        try:
            subjects, settings = [each.subject for each in work], [each.settings for each in work]
            return probe.part("side_by_side").measure_all(subjects, settings, means)
        except GradprobeError as error:
            words = f"{work[0].subject.name}: one after another, since {error}"
            warnings.warn(Notice(words), stacklevel=4)
        subject, _ = _fresh(probe, work[0].subject, work[0].settings)  # untrained again
        return [probe.part("measure")(subject, work[0].settings, means[0])]
    return [probe.part("measure")(work[0].subject, work[0].settings, means[0])]


def _saved(result: Any, work: _Work, store: Store) -> Path:
    """Save a result, and remove the pieces that it was made of."""
    check_same(result.question, work.question)
    (work.partial / FORCED).unlink(missing_ok=True)  # from here on the pieces are of a finished answer
    path = store.save(result, keep=work.partial / "keep")
    shutil.rmtree(work.partial, ignore_errors=True)
    return path

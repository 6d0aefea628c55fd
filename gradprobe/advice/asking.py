"""The one place where an advice asks its questions: of the open task, or of many workers first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.probes.ask import ask
from gradprobe.probes.contract import Probe, Resources, Subject, question_of
from gradprobe.store.results import Store, key_of


@dataclass(frozen=True)
class Question:
    """A question of an advice.

    Attributes:
        probe: that answers it.
        subject: operator, open task and tokens kept.
        settings: of the probe.
        where: places of its files, for workers that open the task themselves.
    """

    probe: Probe
    subject: Subject
    settings: Any
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Means:
    """Means of an advice, on which its numbers do not depend.

    Attributes:
        stores: searched in order; what is measured is saved in the last.
        resources: threads and progress.
        jobs: processes here; None: this one.
        cluster: address of a scheduler; None: none.
    """

    stores: tuple[Store, ...]
    resources: Resources
    jobs: int | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the work, for the progress.

    Attributes:
        label: words for it.
        before: seconds that were planned for all parts before it.
        seconds: planned for this one.
        total: planned for all.
    """

    label: str
    before: float
    seconds: float
    total: float


def answers(questions: Sequence[Question], means: Means, stage: Stage) -> list[Any]:
    """Return the result of each question, or the `GradprobeError` that keeps it without one.

    Args:
        questions: in the order in which they are asked.
        means: of asking.
        stage: that they are part of.

    Raises:
        GradprobeError: the workers cannot be reached.
    """
    report, count = means.resources.report, len(questions)
    refused = _shared_out(questions, means) if means.jobs is not None or means.cluster is not None else {}
    results: list[Any] = []
    for number, each in enumerate(questions):
        report(stage.label, number, count)
        report("all, in planned seconds", round(stage.before + stage.seconds * number / count), round(stage.total))
        if number in refused:
            results.append(GradprobeError(refused[number]))
            continue
        coming = [(other.subject, other.settings) for other in questions[number + 1 :] if other.probe is each.probe]
        try:
            answer = ask(each.probe, each.subject, each.settings, means.stores, means.resources, False, coming)
            results.append(answer.result)
        except GradprobeError as error:
            results.append(error)
    report(stage.label, count, count)
    report("all, in planned seconds", round(stage.before + stage.seconds), round(stage.total))
    return results


def _shared_out(questions: Sequence[Question], means: Means) -> dict[int, str]:
    """Have workers answer what they can; return the reasons of questions that they could not answer, by place.

    What is about a caller's own model has neither an answer nor a reason afterwards, and is asked here.
    """
    from gradprobe.parallel.driver import Asked, Crew, answer_all

    asked = []
    for each in questions:
        task = each.subject.task.with_new_scorer(getattr(each.settings, "seed", 0))
        question = question_of(each.probe, replace(each.subject, task=task), each.settings)
        asked.append(Asked(question, each.where))
    reasons = answer_all(asked, means.stores, Crew(means.jobs, means.cluster), means.resources.progress)
    keys = [key_of(each.question) for each in asked]
    return {number: reasons[key] for number, key in enumerate(keys) if key in reasons}

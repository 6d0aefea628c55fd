"""The driver of the probes: a question is answered from a store, else measured and saved."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradprobe.probes.contract import Probe, Resources, Subject, check_same, question_of
from gradprobe.store.leftovers import FORCED
from gradprobe.store.results import Store


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

    Raises:
        GradprobeError: a stored answer is damaged, or the question cannot be answered on this machine.
    """
    subject = replace(subject, task=subject.task.with_new_scorer(getattr(settings, "seed", 0)))
    question = question_of(probe, subject, settings)
    if not force and (answer := stored(question, stores)) is not None:
        return answer
    with stores[-1].working(question, force) as partial:
        if not force and (answer := stored(question, stores[-1:])) is not None:  # another process worked on it till now
            return answer

        def another(probe: Probe, subject: Subject, settings: Any) -> Any:
            return ask(probe, subject, settings, stores, resources).result

        means = replace(resources, folder=partial, ask=another)
        result = probe.part("measure")(subject, settings, means)
        check_same(result.question, question)
        (partial / FORCED).unlink(missing_ok=True)  # from here on the pieces are of a finished answer
        path = stores[-1].save(result, keep=partial / "keep")
        shutil.rmtree(partial, ignore_errors=True)
    return Answer(result, path, computed=True)

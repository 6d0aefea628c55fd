"""Trainings of retention with several seeds: side by side where they can be, else one after another."""

import time
from collections.abc import Sequence

import torch

from gradprobe.errors import GradprobeError
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.retention import RetentionSettings
from gradprobe.probes.retention.measure import measure
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.probes.retention.side_by_side import alike, measure_all

AT_ONCE = 5  # scorers side by side

Question = tuple[Subject, RetentionSettings]
Trained = tuple[RetentionResult | str, float]  # the result, or the error in one line; and its share of the seconds


def trained(questions: Sequence[Question], at_once: int = AT_ONCE) -> list[Trained]:
    """Answer questions that differ in their seeds, each with a task of its own scorer.

    Args:
        questions: Subject and settings of each.
        at_once: Scorers side by side.
    """
    answers: list[Trained] = []
    for start in range(0, len(questions), at_once):
        some = questions[start : start + at_once]
        began, joint = time.perf_counter(), _together(some)
        if joint is not None:
            share = (time.perf_counter() - began) / len(some)
            answers += [(result, share) for result in joint]
        else:
            answers += [_alone(question) for question in some]
    return answers


def _together(questions: Sequence[Question]) -> list[RetentionResult] | None:
    """Return the results of a joint training; None if there is none."""
    if len(questions) == 1 or not all(alike(questions[0], other) for other in questions[1:]):
        return None
    subjects, settings = zip(*questions, strict=True)
    try:
        return measure_all([_fresh(*each) for each in questions], settings, [Resources()] * len(subjects))
    except (GradprobeError, torch.OutOfMemoryError):
        return None  # the one that fails says so on its own


def _alone(question: Question) -> Trained:
    began, result = time.perf_counter(), None
    try:
        result = measure(_fresh(*question), question[1], Resources())
    except (GradprobeError, torch.OutOfMemoryError) as error:
        return str(error).splitlines()[0], time.perf_counter() - began
    return result, time.perf_counter() - began


def _fresh(subject: Subject, settings: RetentionSettings) -> Subject:
    """Return the subject with an untrained scorer."""
    return Subject(subject.task.with_new_scorer(settings.seed), subject.operator, subject.k)

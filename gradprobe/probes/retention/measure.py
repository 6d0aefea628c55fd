"""Retention: accuracy that a scorer trained through an operator retains once hard top-K is deployed."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from gradprobe.core import AnyOperator, Task
from gradprobe.errors import UsageError, in_words, nearest
from gradprobe.models.rankings import RANKINGS, rank_scores
from gradprobe.operators.temperature import own_tau
from gradprobe.probes.contract import (
    Budget,
    Progress,
    Ranking,
    Reporting,
    Resources,
    Resumable,
    Subject,
    Threads,
    question_of,
    tokens_kept,
)
from gradprobe.probes.environment import environment
from gradprobe.probes.retention import IMAGES, PROBE, RetentionSettings
from gradprobe.probes.retention.deployed import Deployment, columns
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.probes.retention.side_by_side import measure_all
from gradprobe.ranges import RANGES, check_number
from gradprobe.settings import argument, takes
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, workers_for


@dataclass(frozen=True, kw_only=True)
class Training:
    """Arguments of the training, in place of the settings that a recipe holds."""

    recipe: Recipe | None = argument(
        None, "Recipe of the training; its seed also orders the test images. None: 100 steps, as on the command line."
    )
    images: int = argument(IMAGES, "Test images.")


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, Resumable, Threads, Training, Budget):
    """Keyword arguments of `retention`."""


@takes(Arguments)
def retention(task: Task, operator: AnyOperator, given: Arguments) -> RetentionResult:
    """Train a scorer through an operator and measure its accuracy with K deployed tokens over the unpruned model's.

    ``retention = mean 1[right with hard top-K] / mean 1[right with all N]`` on test images; the scorer is trained in
    place by `gradprobe.training.scorer_trainer.ScorerTrainer`. A folder that is given also receives
    ``keep/scorer.safetensors``, the trained scorer.

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible, or an operator whose own tau the recipe would anneal away.
        GradprobeError: no gradient to train with, a loss that is not finite, or too few images.
    """
    subject, recipe = Subject.of(task, operator, given), given.recipe
    if recipe is not None and not isinstance(recipe, Recipe):
        raise UsageError(f"recipe={in_words(recipe)} is no recipe; give gradprobe.Recipe(steps=100)")
    settings: dict[str, Any] = {} if recipe is None else asdict(recipe)
    return measure(subject, RetentionSettings(**settings, images=given.images), Resources.of(given))


def ranked(
    task: Task, ranking: str, k: int | None = None, *, keep: float | None = None, images: int = IMAGES, seed: int = 0,
    workers: int | None = None, progress: Progress | None = None,
) -> RetentionResult:  # fmt: skip
    """Measure the same for a ranking that needs no training, such as ``random``, ``divprune`` or ``truth``.

    Args:
        task: Frozen model and data; its scorer plays no part.
        ranking: Name in `gradprobe.models.rankings.RANKINGS`.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        images: Test images.
        seed: Seed of the test images and of random numbers.
        workers: Threads.
        progress: Called with (description, done, of how many).

    Raises:
        UsageError: a number outside what is possible, or no such ranking.
        GradprobeError: the task cannot be ranked so, or has too few images.
    """
    subject = Subject(task, Ranking(ranking), tokens_kept(task, k, keep))
    resources = Resources(workers=workers, progress=progress)
    return measure(subject, RetentionSettings(steps=0, images=images, seed=seed), resources)


def measure(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    """Answer the question of a subject and settings, see `retention` and `ranked`."""
    answer = _ranked if isinstance(subject.operator, Ranking) else _trained
    return answer(subject, settings, resources)


def check(subject: Subject, settings: RetentionSettings) -> dict[str, None]:
    """Refuse what cannot be trained or ranked; a ranking's question names no part of the task that is trained.

    Raises:
        UsageError: numbers that do not go together, an unknown ranking, or an operator whose own tau the recipe would
            anneal away.
    """
    if isinstance(subject.operator, Ranking):
        if (name := subject.operator.name) not in RANKINGS:
            raise UsageError(f"no ranking is called {name!r}; {nearest(name, RANKINGS)}")
        if settings.steps:
            raise UsageError(f"--steps {settings.steps} is not possible: the ranking {name} is not trained; give 0")
        return dict.fromkeys(("scorer", "denoiser", "train_data"))
    check_number("steps", settings.steps, 1)
    taus = first, last = settings.tau_start, settings.tau_end
    if taus != (None, None) and not all(RANGES["tau"].holds(tau) for tau in taus):
        raise UsageError(f"--tau {first}:{last} is not possible; give two positive numbers, 2.0:0.1, or own")
    if first is not None and own_tau(subject.operator):
        raise UsageError(
            f"operator {subject.name} has a tau of its own, which --tau {first:g}:{last:g} would anneal away; leave it "
            "out of the name, or keep it with --tau own"
        )
    return {}


def _trained(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    return measure_all([subject], [settings], [resources])[0]


def _ranked(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    question, started = question_of(PROBE, subject, settings), time.perf_counter()
    task, k, name, seed = subject.task, subject.k, subject.name, settings.seed
    threads = workers_for(task, resources.workers)
    (test,) = task.batches(1, settings.images, seed)
    deployment = Deployment(task, k, name, lambda batch: rank_scores(task, subject.operator.name, batch, seed), threads)
    with task.running():
        outcome = deployment.complete(groups_of(test), partial(resources.report, f"{name}, K = {k}, seed {seed}: test"))
    return RetentionResult(
        question=question,
        losses=np.zeros(0),
        at=np.zeros(0, np.int64),
        curve=np.zeros((0, 0), np.uint8),
        spread=np.full(2, outcome.spread),
        kind=np.array(test.kinds, np.uint8),
        environment=environment(time.perf_counter() - started, task.skipped),
        **columns(outcome),
    )

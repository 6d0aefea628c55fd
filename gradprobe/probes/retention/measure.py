"""Retention: accuracy that a scorer trained through an operator retains once hard top-K is deployed."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from gradprobe.core import AnyOperator, Task
from gradprobe.errors import UsageError, in_words
from gradprobe.models.rankings import Selecting
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
from gradprobe.probes.recipe import check_recipe
from gradprobe.probes.retention import IMAGES, PROBE, RetentionSettings
from gradprobe.probes.retention.deployed import Deployment, columns
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.probes.retention.shared import complete_once, test_images
from gradprobe.probes.retention.side_by_side import measure_all
from gradprobe.ranges import plain
from gradprobe.selectors.plan import Plan, plan_of
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
    settings: dict[str, Any] = {} if recipe is None else {name: plain(value) for name, value in asdict(recipe).items()}
    return measure(subject, RetentionSettings(**settings, images=given.images), Resources.of(given))


def ranked(
    task: Task, plan: "str | Plan", k: int | None = None, *, keep: float | None = None, images: int = IMAGES,
    seed: int = 0, workers: int | None = None, progress: Progress | None = None,
) -> RetentionResult:  # fmt: skip
    """Measure the same for selectors that need no training, such as ``random``, ``divprune`` or ``fastv@2``.

    Args:
        task: Frozen model and data; its scorer plays no part.
        plan: Name of a selector, or a plan, see `gradprobe.selectors.plan.plan_of`.
        k: Tokens that are left behind its last stage, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        images: Test images.
        seed: Seed of the test images and of random numbers.
        workers: Threads.
        progress: Called with (description, done, of how many).

    Raises:
        UsageError: a number outside what is possible, no such selector, or one that reads what the task lacks.
        GradprobeError: the task has too few images.
    """
    made = plan_of(plan)
    subject = Subject(task, Ranking(made.label), tokens_kept(task, plain(k), plain(keep)))
    resources = Resources(workers=plain(workers), progress=progress)
    settings = RetentionSettings(steps=0, images=plain(images), seed=plain(seed), positions=made.positions)
    return measure(subject, settings, resources)


def measure(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    """Answer the question of a subject and settings, see `retention` and `ranked`."""
    answer = _ranked if isinstance(subject.operator, Ranking) else _trained
    return answer(subject, settings, resources)


def check(subject: Subject, settings: RetentionSettings) -> dict[str, str | None]:
    """Refuse what cannot be trained or ranked; a plan's question names no part of the task that is trained.

    Raises:
        UsageError: positions of a trained scorer, a plan that the model and K do not allow, and see
            `gradprobe.probes.recipe.check_recipe`.
    """
    if isinstance(subject.operator, Ranking):
        _selecting(subject, settings)
    elif settings.positions != "keep":
        raise UsageError(f"--positions {settings.positions} is for selectors; a trained scorer keeps the original ones")
    return check_recipe(subject, settings)


def _selecting(subject: Subject, settings: RetentionSettings) -> Selecting:
    positions: Any = settings.positions
    return Selecting.of(subject.task, subject.operator.name, subject.k, settings.seed, positions)


def _trained(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    return measure_all([subject], [settings], [resources])[0]


def _ranked(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    question, started = question_of(PROBE, subject, settings), time.perf_counter()
    task, k, name, seed = subject.task, subject.k, subject.name, settings.seed
    threads = workers_for(task, resources.workers)
    test, skipped = test_images(task, settings.images, seed, resources)
    chosen = _selecting(subject, settings)
    deployment = Deployment(task, name, chosen.choose, chosen.reader, threads)
    progress = partial(resources.report, f"{name}, K = {k}, seed {seed}: test")
    with task.running():
        outcome = complete_once(deployment, groups_of(test), seed, resources, progress)
    return RetentionResult(
        question=question,
        losses=np.zeros(0),
        at=np.zeros(0, np.int64),
        curve=np.zeros((0, 0), np.uint8),
        spread=np.full(2, outcome.spread),
        kind=np.array(test.kinds, np.uint8),
        environment=environment(time.perf_counter() - started, skipped),
        **columns(outcome),
    )

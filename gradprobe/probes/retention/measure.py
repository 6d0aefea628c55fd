"""Retention: accuracy that a scorer trained through an operator retains once hard top-K is deployed."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradprobe.core import AnyOperator, Task
from gradprobe.errors import UsageError, in_words, nearest
from gradprobe.models.rankings import RANKINGS, rank_scores
from gradprobe.models.scorer_file import save_scorer
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
from gradprobe.probes.environment import environment, versions
from gradprobe.probes.retention import IMAGES, PROBE, RetentionSettings
from gradprobe.probes.retention.deployed import Deployment, columns, mean_spread
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.ranges import RANGES, check_number
from gradprobe.settings import argument, takes
from gradprobe.store.locks import claimed
from gradprobe.training.checkpoint import NAME as CHECKPOINT
from gradprobe.training.checkpoint import Checkpoint, unwritable
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, workers_for

LOOKS, LOOK_IMAGES = 10, 256  # points of the training curve, and the images that each is measured on
SAVE_EVERY = 25  # steps


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
    """Measure the same for a ranking that needs no training: ``random``, ``norm``, ``class-attention`` or ``truth``.

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
    question, started = question_of(PROBE, subject, settings), time.perf_counter()
    task, k, name, seed = subject.task, subject.k, subject.name, settings.seed
    threads = workers_for(task, resources.workers)
    (test,) = task.batches(1, settings.images, seed)
    groups = groups_of(test)
    few = groups[: -(-min(LOOK_IMAGES, settings.images) // len(groups[0].ids))]
    looks = sorted({round(i * settings.steps / LOOKS) for i in range(LOOKS + 1)})
    recipe = Recipe(**{f.name: getattr(settings, f.name) for f in fields(Recipe)})
    trainer = ScorerTrainer(task, subject.operator, k, name, recipe, threads)
    folder = None if resources.folder is None else Path(resources.folder)
    saved, label = _Saved(folder, question), f"{name}, K = {k}, seed {seed}"
    with saved.claimed(f"the training of {label}"):
        curve, before, spent = saved.restore(trainer)
        started -= spent
        deployment = Deployment(task, k, name, lambda batch: task.scorer(batch.tokens.patches), threads)
        with task.running():
            if not curve:
                fresh = deployment.pruned(few)
                before, curve = mean_spread(fresh), [np.concatenate([x.correct for x in fresh])]
            for step in trainer.run():
                if step in looks:
                    curve.append(np.concatenate([x.correct for x in deployment.pruned(few)]))
                if step % SAVE_EVERY == 0 or step == settings.steps:
                    saved.keep(trainer, curve, before, time.perf_counter() - started)
                resources.report(f"{label}: training", step, settings.steps)
            outcomes = deployment.complete(groups, partial(resources.report, f"{label}: test"))
        if folder is not None:
            save_scorer(task.scorer, folder / "keep", {**question, "dim": test.tokens.patches.shape[-1]})
        return RetentionResult(
            question=question,
            losses=np.array(trainer.losses),
            at=np.array(looks, dtype=np.int64),
            curve=np.stack(curve).astype(np.uint8),
            spread=np.array([before, mean_spread(outcomes)]),
            environment=environment(time.perf_counter() - started, task.skipped),
            kind=np.array(test.kinds, np.uint8),
            **columns(outcomes),
        )


def _ranked(subject: Subject, settings: RetentionSettings, resources: Resources) -> RetentionResult:
    question, started = question_of(PROBE, subject, settings), time.perf_counter()
    task, k, name, seed = subject.task, subject.k, subject.name, settings.seed
    threads = workers_for(task, resources.workers)
    (test,) = task.batches(1, settings.images, seed)
    deployment = Deployment(task, k, name, lambda batch: rank_scores(task, subject.operator.name, batch, seed), threads)
    with task.running():
        outcomes = deployment.complete(
            groups_of(test), partial(resources.report, f"{name}, K = {k}, seed {seed}: test")
        )
    return RetentionResult(
        question=question,
        losses=np.zeros(0),
        at=np.zeros(0, np.int64),
        curve=np.zeros((0, 0), np.uint8),
        spread=np.full(2, mean_spread(outcomes)),
        kind=np.array(test.kinds, np.uint8),
        environment=environment(time.perf_counter() - started, task.skipped),
        **columns(outcomes),
    )


class _Saved:
    """Checkpoint of an unfinished training in a folder; one of another question is ignored."""

    def __init__(self, folder: Path | None, question: Mapping[str, Any]):
        self._question = question
        self._path = None if folder is None else folder / CHECKPOINT

    @contextmanager
    def claimed(self, work: str) -> Iterator[None]:
        """Keep the folder's training to this process meanwhile."""
        with ExitStack() as held:
            if self._path is not None:
                try:
                    held.enter_context(claimed(self._path.parent, work, "checkpoint.lock"))
                except OSError as error:
                    raise unwritable(self._path, error) from None
            yield

    def restore(self, trainer: ScorerTrainer) -> tuple[list[np.ndarray], float, float]:
        """Resume the training; return the looks so far, the spread before it and the seconds spent."""
        saved = None if self._path is None else Checkpoint.read(self._path)
        if saved is None or (saved.config, saved.progress["versions"]) != (self._question, versions()):
            return [], 0.0, 0.0
        trainer.load_state_dict(saved.tensors)
        return list(saved.tensors["curve"].numpy()), saved.progress["spread"], saved.progress["seconds"]

    def keep(self, trainer: ScorerTrainer, curve: list[np.ndarray], spread: float, seconds: float) -> None:
        """Write the checkpoint."""
        if self._path is None:
            return
        tensors = trainer.state_dict() | {"curve": torch.from_numpy(np.stack(curve))}
        progress = {"versions": versions(), "spread": spread, "seconds": seconds}
        Checkpoint(self._question, tensors, progress).write(self._path)

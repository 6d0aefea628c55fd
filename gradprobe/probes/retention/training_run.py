"""One training of retention between its steps: looks at the deployed accuracy, a checkpoint, the result."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.models.scorer_file import save_scorer
from gradprobe.probes.contract import Resources, Subject, question_of
from gradprobe.probes.environment import environment, versions
from gradprobe.probes.retention import PROBE, RetentionSettings
from gradprobe.probes.retention.deployed import Deployment, columns
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.probes.retention.shared import complete_once, test_images
from gradprobe.store.locks import claimed
from gradprobe.training.checkpoint import NAME as CHECKPOINT
from gradprobe.training.checkpoint import Checkpoint, unwritable
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, workers_for

LOOKS, LOOK_IMAGES = 10, 256  # points of the training curve, and the images that each is measured on
SAVE_EVERY = 25  # steps


class TrainingRun:
    """Training of the question of a subject and settings, whoever takes its steps.

    Args:
        subject: Operator, task and budget.
        settings: Settings of retention.
        resources: Threads, the folder of the checkpoint, and progress.
    """

    def __init__(self, subject: Subject, settings: RetentionSettings, resources: Resources):
        self.subject, self.settings, self.resources = subject, settings, resources
        self.question = question_of(PROBE, subject, settings)
        self.recipe = Recipe(**{f.name: getattr(settings, f.name) for f in fields(Recipe)})
        self.label = f"{subject.name}, K = {subject.k}, seed {settings.seed}"
        self.threads = workers_for(subject.task, resources.workers)
        self.share = 1.0  # of the seconds that pass, where others are trained meanwhile
        self._started, self._spent = time.perf_counter(), 0.0
        self._test, self._skipped = test_images(subject.task, settings.images, settings.seed, resources)
        self._few = groups_of(self._test.subset(slice(LOOK_IMAGES)))
        self._looks = sorted({round(i * settings.steps / LOOKS) for i in range(LOOKS + 1)})
        self._deployment = Deployment.of_scorer(subject.task, subject.k, subject.name, self.threads)
        self._folder = None if resources.folder is None else Path(resources.folder)
        self._curve: list[np.ndarray] = []
        self._before = 0.0

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep the folder's training to this process meanwhile."""
        with ExitStack() as held:
            if self._folder is not None:
                try:
                    held.enter_context(claimed(self._folder, f"the training of {self.label}", "checkpoint.lock"))
                except OSError as error:
                    raise unwritable(self._folder / CHECKPOINT, error) from None
            yield

    def restored(self) -> dict[str, Tensor] | None:
        """Read the checkpoint; return the state of the trainer in it. One of another question is ignored."""
        saved = None if self._folder is None else Checkpoint.read(self._folder / CHECKPOINT)
        if saved is None or (saved.config, saved.progress["versions"]) != (self.question, versions()):
            return None
        self._curve, self._before = list(saved.tensors["curve"].numpy()), saved.progress["spread"]
        self._spent = saved.progress["seconds"]
        return saved.tensors

    def begin(self) -> None:
        """Look at the untrained scorer, unless the training goes on from a checkpoint."""
        if not self._curve:
            fresh = self._deployment.pruned(self._few)
            self._before, self._curve = fresh.spread, [fresh.correct]

    def look_is_due(self, step: int) -> bool:
        """Tell whether the training curve has a point at a step."""
        return step in self._looks

    def look(self) -> None:
        """Add a point to the training curve."""
        self._curve.append(self._deployment.pruned(self._few).correct)

    def save_is_due(self, step: int) -> bool:
        """Tell whether the checkpoint is written at a step."""
        return self._folder is not None and (step % SAVE_EVERY == 0 or step == self.settings.steps)

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Write the checkpoint with the state of the trainer."""
        assert self._folder is not None
        tensors = {**state, "curve": torch.from_numpy(np.stack(self._curve))}
        progress = {"versions": versions(), "spread": self._before, "seconds": self._seconds()}
        Checkpoint(self.question, tensors, progress).write(self._folder / CHECKPOINT)

    def result(self, losses: list[float]) -> RetentionResult:
        """Return the result of the trained scorer, which a folder receives as well.

        Args:
            losses: Mean loss of each step.
        """
        task, resources = self.subject.task, self.resources
        groups, progress = groups_of(self._test), partial(resources.report, f"{self.label}: test")
        outcome = complete_once(self._deployment, groups, self.settings.seed, resources, progress)
        if self._folder is not None:
            facts: dict[str, Any] = {**self.question, "dim": self._test.tokens.patches.shape[-1]}
            save_scorer(task.scorer, self._folder / "keep", facts)
        return RetentionResult(
            question=self.question,
            losses=np.array(losses),
            at=np.array(self._looks, dtype=np.int64),
            curve=np.stack(self._curve).astype(np.uint8),
            spread=np.array([self._before, outcome.spread]),
            environment=environment(self._seconds(), tuple(dict.fromkeys((*task.skipped, *self._skipped)))),
            kind=np.array(self._test.kinds, np.uint8),
            **columns(outcome),
        )

    def _seconds(self) -> float:
        return (time.perf_counter() - self._started) * self.share + self._spent

"""Seconds of a training step of each operator and of a test image, timed before a schedule is made."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gradprobe.core import Batch, Noise, RaggedBatch, Task, apply
from gradprobe.errors import GradprobeError
from gradprobe.files import atomic_write
from gradprobe.probes.contract import Progress
from gradprobe.probes.retention.deployed import Deployment
from gradprobe.store.leftovers import temporary
from gradprobe.training.memory import training_rows
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, over_groups, workers_for

STEPS, IMAGES = 2, 32


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        step: a training step, by operator.
        forward: its forward pass alone, without loading images.
        pruned: an image of the deployed tokens.
        whole: an image with all tokens, loaded and embedded.
        spent: the timing itself.
        failed: reason why an operator cannot be trained, by its name.
    """

    step: dict[str, float]
    forward: dict[str, float]
    pruned: float
    whole: float
    spent: float
    failed: dict[str, str]


def timed(
    task: Task, operators: Mapping[str, Any], k: int, seed: int, batch_size: int, workers: int | None,
    progress: Progress | None,
) -> Costs:  # fmt: skip
    """Time two training steps and a forward pass of each operator, and the deployment of a few images.

    The faster of the two steps counts, images loaded meanwhile as in a training; so do threads and other work of the
    machine.

    Args:
        task: that scorers are trained on.
        operators: by name.
        k: tokens kept.
        seed: of images, noise and scorer.
        batch_size: images of a training step.
        workers: threads; None: as many as torch has.
        progress: called with (description, done, of how many).
    """
    started, threads = time.perf_counter(), workers_for(task, workers)
    step, forward, failed = {}, {}, {}
    recipe = Recipe(steps=STEPS, batch_size=batch_size, seed=seed, tau_start=None, tau_end=None)
    with task.running():
        first = next(iter(task.training_batches(batch_size, seed)))
        batch = first.parts[0] if isinstance(first, RaggedBatch) else first
        for number, (name, operator) in enumerate(operators.items()):
            try:
                step[name] = _step(task.with_new_scorer(seed), operator, k, name, recipe, threads)
                forward[name] = _forward(task, operator, k, batch, name, threads)
            except GradprobeError as error:
                failed[name] = str(error)
                step.pop(name, None)
            if progress is not None:
                progress("a training step of each operator", number + 1, len(operators))
        pruned, whole = _deployment(task, k, seed, threads)
    return Costs(step, forward, pruned, whole, time.perf_counter() - started, failed)


def remembered(path: Path, about: Mapping[str, Any], make: Callable[[], Costs]) -> Costs:
    """Return the costs that were noted when the same advice was first asked for; else make and note them.

    So that the same call makes the same schedule, and goes on where it was stopped.

    Args:
        path: of the note.
        about: what it depends on, for people.
        make: time them.
    """
    try:
        return Costs(**json.loads(path.read_text(encoding="utf-8"))["costs"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked before, or not readable: timed again
    costs = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({**about, "costs": asdict(costs)}, indent=2).encode(), temporary(path.parent))
    return costs


def _step(task: Any, operator: Any, k: int, name: str, recipe: Recipe, threads: int) -> float:
    trainer = ScorerTrainer(task, operator, k, name, recipe, threads)
    seconds, started = [], time.perf_counter()
    for _ in trainer.run():
        trainer.losses  # noqa: B018  # waits for a GPU
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    return min(seconds)


def _forward(task: Task, operator: Any, k: int, batch: Batch, name: str, threads: int) -> float:
    def work(group: Batch) -> float:
        patches = group.tokens.patches
        noise = Noise(seed=0, ids=group.ids, generator=task.generator)
        with torch.no_grad():
            return float(task.losses(apply(operator, patches, task.scorer(patches), k, noise, name), group).sum())

    started = time.perf_counter()
    for _ in over_groups(work, groups_of(batch, training_rows(batch.tokens.patches)), threads):
        pass
    return time.perf_counter() - started


def _deployment(task: Task, k: int, seed: int, threads: int) -> tuple[float, float]:
    """Return the seconds of a test image with K tokens, and with all, loaded and embedded."""
    count = task.available(IMAGES)
    deployment = Deployment.of_scorer(task, k, "scorer", threads)
    started = time.perf_counter()
    (test,) = task.batches(1, count, seed)
    loading = time.perf_counter() - started
    groups, pruned = groups_of(test), []
    for _ in range(STEPS):
        started = time.perf_counter()
        deployment.pruned(groups)
        pruned.append(time.perf_counter() - started)
    started = time.perf_counter()
    deployment.complete(groups, lambda done, images: None)
    both = time.perf_counter() - started
    few = statistics.fmean(pruned)
    return few / count, (max(both - few, few) + loading) / count

"""Retention: what a scorer trained through an operator keeps of the model's accuracy, once hard top-K is deployed."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import AnyOperator, Batch, Selection, SelectionOperator, Task, check_k, hard_topk
from gradprobe.errors import GradprobeError, UsageError, in_words, nearest
from gradprobe.models.rankings import RANKINGS, rank_scores
from gradprobe.models.scorer_file import save_scorer
from gradprobe.operators import registry
from gradprobe.operators.temperature import own_tau
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.probes.questions import (
    Progress,
    asked_of,
    check_counts,
    check_same,
    environment,
    operator_and_k,
    operator_of,
    task_of,
    tokens_kept,
    versions,
)
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.ranges import check_numbers
from gradprobe.statistics.estimates import auc
from gradprobe.store.locks import claimed
from gradprobe.training.checkpoint import NAME as CHECKPOINT
from gradprobe.training.checkpoint import Checkpoint, unwritable
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, in_threads, workers_for

RANKED = "ranked:"
STEPS = 100  # of a training whose recipe nobody gave
LOOKS, LOOK_IMAGES = 10, 256  # how often, and on how many images, the deployed accuracy is looked at while training
SAVE_EVERY = 25  # steps


def retention(
    task: Task,
    operator: AnyOperator,
    k: int | None = None,
    *,
    keep: float | None = None,
    recipe: Recipe | None = None,
    images: int = 1000,
    workers: int | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> RetentionResult:
    """Accuracy with the K tokens that a scorer trained through an operator keeps, over the unpruned model's.

    ``retention = mean 1[right with hard top-K] / mean 1[right with all N]`` on test images; the scorer is trained in
    place by `gradprobe.training.scorer_trainer.ScorerTrainer`.

    Args:
        task: frozen model, scorer and data.
        operator: what the scorer is trained through: itself, its name or its class.
        k: tokens kept, while training and deployed, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        recipe: of the training; its seed also orders the test images. None: 100 steps, as on the command line.
        images: test images.
        workers: threads; the numbers do not depend on it. None: as many as torch has.
        folder: where an unfinished training is kept and resumed from, and ``keep/scorer.safetensors`` is written.
        progress: called with (what, done, of how many).

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible, or an operator whose own tau the recipe would anneal away.
        GradprobeError: no gradient to train with, a loss that is not finite, or too few images.
    """
    operator, k = operator_and_k(task, operator, k, keep)
    name, recipe = registry.label(operator), Recipe(STEPS) if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe={in_words(recipe)} is no recipe; give gradprobe.Recipe(steps=100)")
    question = question_of(task, operator, k, recipe=recipe, images=images)
    tell, started = progress or (lambda what, done, total: None), time.perf_counter()
    threads = workers_for(task, workers)
    (test,) = task.batches(1, images, recipe.seed)
    few = groups_of(test)[: -(-min(LOOK_IMAGES, images) // len(groups_of(test)[0].ids))]
    looks = sorted({round(i * recipe.steps / LOOKS) for i in range(LOOKS + 1)})
    trainer = ScorerTrainer(task, operator, k, name, recipe, threads)
    saved = _Saved(None if folder is None else Path(folder), question)
    with saved.claimed(f"the training of {name}, K = {k}, seed {recipe.seed}"):
        curve, before, spent = saved.restore(trainer)
        started -= spent
        about = f"{name}, K = {k}, seed {recipe.seed}"
        looking = _Looking(task, k, name, lambda batch: task.scorer(batch.tokens.patches), threads)
        with task.running():
            if not curve:
                first = looking.at(few)
                before = float(np.mean([x.spread for x in first]))
                curve = [np.concatenate([x.right for x in first])]
            for step in trainer.run():
                if step in looks:
                    curve.append(np.concatenate([x.right for x in looking.at(few)]))
                if step % SAVE_EVERY == 0 or step == recipe.steps:
                    saved.keep(trainer, curve, before, time.perf_counter() - started)
                tell(f"{about}: training", step, recipe.steps)
            everyone = looking.all_of(groups_of(test), partial(tell, f"{about}: test"))
        if folder is not None:
            save_scorer(task.scorer, Path(folder) / "keep", {**question, "dim": test.tokens.patches.shape[-1]})
        return RetentionResult(
            question=question,
            losses=np.array(trainer.losses),
            at=np.array(looks, dtype=np.int64),
            curve=np.stack(curve).astype(np.uint8),
            spread=np.array([before, np.mean([x.spread for x in everyone])]),
            environment=environment(time.perf_counter() - started, task.skipped),
            kind=np.array(test.kinds, np.uint8),
            **_columns(everyone),
        )


def ranked(
    task: Task, ranking: str, k: int | None = None, *, keep: float | None = None, images: int = 1000, seed: int = 0,
    workers: int | None = None, progress: Progress | None = None,
) -> RetentionResult:  # fmt: skip
    """The same for a ranking that needs no training: ``random``, ``norm``, ``class-attention`` or ``truth``.

    Args:
        task: frozen model and data; its scorer plays no part.
        ranking: a name in `gradprobe.models.rankings.RANKINGS`.
        k: tokens kept, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        images: test images.
        seed: of the test images and of random numbers.
        workers: threads.
        progress: called with (what, done, of how many).

    Raises:
        UsageError: a number outside what is possible, or no such ranking.
        GradprobeError: the task cannot tell, or has too few images.
    """
    k = tokens_kept(task, k, keep)
    question = ranked_question(task, ranking, k, images=images, seed=seed)
    tell, started = progress or (lambda what, done, total: None), time.perf_counter()
    (test,) = task.batches(1, images, seed)
    name, threads = question["op"], workers_for(task, workers)
    looking = _Looking(task, k, name, lambda batch: rank_scores(task, ranking, batch, seed), threads)
    with task.running():
        found = looking.all_of(groups_of(test), partial(tell, f"{name}, K = {k}, seed {seed}: test"))
    nothing = np.zeros(0)
    return RetentionResult(
        question=question, losses=nothing, at=nothing.astype(np.int64), curve=np.zeros((0, 0), np.uint8),
        spread=np.full(2, np.mean([x.spread for x in found])),
        kind=np.array(test.kinds, np.uint8),
        environment=environment(time.perf_counter() - started, task.skipped), **_columns(found),
    )  # fmt: skip


def question_of(task: Task, operator: SelectionOperator, k: int, *, recipe: Recipe, images: int) -> dict[str, Any]:
    """The question that a result answers: all that decides its numbers, in JSON types.

    Raises:
        UsageError: a number outside what is possible, or an operator whose own tau the recipe would anneal away.
    """
    check_k(k, task.n_tokens)
    check_counts({"steps": (recipe.steps, 1), "batch-size": (recipe.batch_size, 1), "images": (images, 1)})
    check_numbers({name: getattr(recipe, name) for name in ("seed", "learning_rate", "weight_decay", "tau_steps")})
    taus = (recipe.tau_start, recipe.tau_end)
    if (None in taus and taus != (None, None)) or any(t is not None and not 0 < t < math.inf for t in taus):
        raise UsageError(f"--tau {taus[0]}:{taus[1]} is not possible; give two positive numbers, 2.0:0.1, or own")
    name = registry.label(operator)
    if recipe.tau_start is not None and own_tau(operator):
        raise UsageError(
            f"operator {name} has a tau of its own, which --tau {taus[0]:g}:{taus[1]:g} would anneal away; leave it "
            "out of the name, or keep it with --tau own"
        )
    settings = {name: value for name, value in dataclasses.asdict(recipe).items() if value is not None}
    return asked_of("retention", task, operator, k, {**settings, "images": images})


def ranked_question(task: Task, ranking: str, k: int, *, images: int, seed: int) -> dict[str, Any]:
    """The question that `ranked` answers; neither scorer nor training data are part of it.

    Raises:
        UsageError: a number outside what is possible, or no such ranking.
    """
    check_k(k, task.n_tokens)
    check_counts({"images": (images, 1)})
    if ranking not in RANKINGS:
        raise UsageError(f"no ranking is called {ranking!r}; {nearest(ranking, RANKINGS)}")
    about = {n: v for n, v in task.question.items() if n not in ("scorer", "denoiser", "train_data")}
    return {
        "probe": "retention",
        "op": f"{RANKED}{ranking}",
        "k": k,
        "steps": 0,
        "images": images,
        "seed": seed,
        **about,
    }


def answer(question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None) -> RetentionResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` or `ranked_question` writes it.
        where: ``weights``, ``data``, ``train_data`` and ``device``, where they differ from the defaults; ``workers``;
            ``partial``, the folder for an unfinished training.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    workers = int(where["workers"]) if "workers" in where else None
    k, images, seed = (question[name] for name in ("k", "images", "seed"))
    if str(question["op"]).startswith(RANKED):
        ranking = question["op"].removeprefix(RANKED)
        task = task_of({"scorer": "mlp:width=1", **question}, {n: v for n, v in where.items() if n != "train_data"})
        check_same(ranked_question(task, ranking, k, images=images, seed=seed), question)
        return ranked(task, ranking, k, images=images, seed=seed, workers=workers, progress=progress)
    task, operator = task_of(question, where), operator_of(question)
    settings: Any = {f.name: question.get(f.name) for f in dataclasses.fields(Recipe)}
    recipe = Recipe(**settings)
    check_same(question_of(task, operator, k, recipe=recipe, images=images), question)
    return retention(
        task, operator, k, recipe=recipe, images=images, workers=workers, folder=where.get("partial"), progress=progress
    )


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a group of images gives with its K deployed tokens."""

    right: np.ndarray
    unpruned: np.ndarray
    auc: np.ndarray
    spread: float


def _columns(found: list[_Look]) -> dict[str, np.ndarray]:
    correct, unpruned = (np.concatenate([getattr(x, n) for x in found]) for n in ("right", "unpruned"))
    known = np.concatenate([x.auc for x in found])
    return {
        "correct": correct.astype(np.uint8), "unpruned": unpruned.astype(np.uint8), "auc": known.astype(np.float32)
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Looking:
    """How images are looked at: which are right with the K tokens of the highest scores, and with all of them."""

    task: Task
    k: int
    name: str
    scores: Callable[[Batch], Tensor | None]
    workers: int

    def at(self, groups: list[Batch]) -> list[_Look]:
        """Each group with its K tokens alone."""
        return list(in_threads(partial(self._one, whole=False), groups, self.workers))

    def all_of(self, groups: list[Batch], tell: Callable[[int, int], None]) -> list[_Look]:
        """Each group with K tokens and with all N; tells how many groups are done."""
        found = []
        for look in in_threads(partial(self._one, whole=True), groups, self.workers):
            found.append(look)
            tell(len(found), len(groups))
        return found

    def _one(self, batch: Batch, whole: bool) -> _Look:
        patches = batch.tokens.patches
        with torch.no_grad():
            scores = self.scores(batch)
            if scores is None:
                what = self.name.removeprefix(RANKED)
                raise GradprobeError(f"{what} does not rank the tokens of this model and these images")
            refuse_nonfinite(scores, "score", self.name, batch)
            right = _right(self.task, hard_topk(patches, scores, self.k), batch)
            everything = Selection(patches, torch.ones(patches.shape[:2], device=patches.device))
            unpruned = _right(self.task, everything, batch) if whole else np.zeros(0, bool)
        known = np.zeros(0)
        if batch.relevant is not None and whole:
            known = auc(scores.double().cpu().numpy(), batch.relevant.cpu().numpy())
        return _Look(right, unpruned, known, float(scores.std(-1).mean()) if scores.shape[1] > 1 else 0.0)


def _right(task: Task, selection: Selection, batch: Batch) -> np.ndarray:
    return (task.ranks(selection, batch) == 0).cpu().numpy()


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

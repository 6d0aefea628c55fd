"""Accuracy of the frozen model on the K deployed tokens of each image and on all N."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import Batch, Selection, Task, hard_topk
from gradprobe.deferred import deferring
from gradprobe.models.rankings import Chosen
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.statistics.estimates import auc
from gradprobe.training.memory import Limit
from gradprobe.training.workers import over_groups


@dataclass(frozen=True)
class Outcome:
    """Outcome of some images.

    Attributes:
        correct: whether each image is right with its K deployed tokens, ``(I,)``.
        unpruned: whether it is right with all N, ``(I,)``; empty if not asked for.
        auc: AUC of its scores against the tokens that matter, ``(I,)``; empty if those are not known.
        spread: standard deviation of an image's scores, mean over images.
    """

    correct: np.ndarray
    unpruned: np.ndarray
    auc: np.ndarray
    spread: float


@dataclass(frozen=True)
class Deployment:
    """Frozen model that reads the tokens that are chosen.

    Attributes:
        task: frozen model and data.
        name: of the operator or plan, for errors.
        choose: chooses the tokens of each image of a batch.
        reader: task that reads them.
        workers: threads.
        limit: images at a time, where memory was full.
    """

    task: Task
    name: str
    choose: Callable[[Batch], Chosen]
    reader: Task
    workers: int
    limit: Limit = field(default_factory=Limit, compare=False)

    @classmethod
    def of_scorer(cls, task: Task, k: int, name: str, workers: int) -> "Deployment":
        """Return the deployment of the K tokens to which a task's scorer gives the highest scores."""

        def choose(batch: Batch) -> Chosen:
            scores = task.scorer(batch.tokens.patches)
            refuse_nonfinite(scores, "score", name, batch)
            return Chosen(hard_topk(batch.tokens.patches, scores, k), scores)

        return cls(task, name, choose, task, workers)

    def pruned(self, groups: Sequence[Batch]) -> Outcome:
        """Return the outcome of images with K tokens alone, without AUC; where memory is full, of smaller groups."""
        return self._outcome(groups, whole=False, progress=lambda done, images: None)

    def complete(
        self, groups: Sequence[Batch], progress: Callable[[int, int], None], unpruned: np.ndarray | None = None
    ) -> Outcome:
        """Return the outcome of images with K tokens and with all N; where memory is full, of smaller groups.

        Args:
            groups: test images.
            progress: called with (images done, of how many).
            unpruned: whether each is right with all N, ``(I,)``, where that is known; None: it is measured.
        """
        outcome = self._outcome(groups, whole=unpruned is None, progress=progress, relevance=True)
        return outcome if unpruned is None else replace(outcome, unpruned=unpruned)

    def _outcome(
        self, groups: Sequence[Batch], whole: bool, progress: Callable[[int, int], None], relevance: bool = False
    ) -> Outcome:
        answers, relevant, done, images = [], [], 0, sum(len(group.ids) for group in groups)
        with deferring():
            for group, answer in over_groups(partial(self._answers, whole=whole), groups, self.workers, self.limit):
                answers.append(answer)
                relevant += [] if group.relevant is None or not relevance else [group.relevant]
                done += len(group.ids)
                progress(done, images)
            correct, unpruned, scores = zip(*answers, strict=True)  # a GPU is waited for from here on
            areas = np.zeros(0)
            if relevant and all(len(each) for each in scores):
                areas = auc(torch.cat(scores).double().cpu().numpy(), torch.cat(relevant).cpu().numpy())
            spreads = [each.std(-1).mean() if each.shape[1] > 1 else each.new_zeros(()) for each in scores]
            return Outcome(
                torch.cat(correct).cpu().numpy(),
                torch.cat(unpruned).cpu().numpy(),
                areas,
                float(np.average(torch.stack(spreads).tolist(), weights=[len(each) for each in correct])),
            )

    def _answers(self, batch: Batch, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether each image is right with K tokens and with all N, and its scores."""
        patches = batch.tokens.patches
        with torch.no_grad():
            chosen = self.choose(batch)
            correct = self.reader.ranks(chosen.selection, batch) == 0
            everything = Selection(patches, torch.ones(patches.shape[:2], device=patches.device))
            unpruned = self.task.ranks(everything, batch) == 0 if whole else correct[:0]
        return correct, unpruned, patches.new_zeros(0, 0) if chosen.scores is None else chosen.scores


def columns(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the arrays of a result."""
    return {
        "correct": outcome.correct.astype(np.uint8),
        "unpruned": outcome.unpruned.astype(np.uint8),
        "auc": outcome.auc.astype(np.float32),
    }

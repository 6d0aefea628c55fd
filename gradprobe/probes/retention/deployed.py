"""Accuracy of the frozen model on the K deployed tokens of each image and on all N."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import Batch, Selection, Task, hard_topk
from gradprobe.errors import GradprobeError
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.settings import RANKED
from gradprobe.statistics.estimates import auc
from gradprobe.training.workers import in_threads


@dataclass(frozen=True)
class Outcome:
    """Outcome of a group of images.

    Attributes:
        correct: whether each image is right with its K deployed tokens, ``(I,)``.
        unpruned: whether it is right with all N, ``(I,)``; empty if not asked for.
        auc: AUC of its scores against the tokens that matter, ``(I,)``; empty if those are not known.
        spread: standard deviation of its scores, mean over images.
    """

    correct: np.ndarray
    unpruned: np.ndarray
    auc: np.ndarray
    spread: float


@dataclass(frozen=True)
class Deployment:
    """Frozen model that reads the K tokens of the highest scores.

    Attributes:
        task: frozen model and data.
        k: tokens kept.
        name: of the operator or ranking, for errors.
        scores: batch -> scores ``(B, N)``; None where tokens cannot be ranked.
        workers: threads.
    """

    task: Task
    k: int
    name: str
    scores: Callable[[Batch], Tensor | None]
    workers: int

    def pruned(self, groups: Sequence[Batch]) -> list[Outcome]:
        """Return the outcome of each group with K tokens alone."""
        return list(in_threads(partial(self._outcome, whole=False), groups, self.workers))

    def complete(self, groups: Sequence[Batch], progress: Callable[[int, int], None]) -> list[Outcome]:
        """Return the outcome of each group with K tokens and with all N.

        Args:
            groups: test images.
            progress: called with (groups done, of how many).
        """
        outcomes: list[Outcome] = []
        for outcome in in_threads(partial(self._outcome, whole=True), groups, self.workers):
            outcomes.append(outcome)
            progress(len(outcomes), len(groups))
        return outcomes

    def _outcome(self, batch: Batch, whole: bool) -> Outcome:
        patches = batch.tokens.patches
        with torch.no_grad():
            scores = self.scores(batch)
            if scores is None:
                ranking = self.name.removeprefix(RANKED)
                raise GradprobeError(f"{ranking} does not rank the tokens of this model and these images")
            refuse_nonfinite(scores, "score", self.name, batch)
            correct = self._correct(hard_topk(patches, scores, self.k), batch)
            everything = Selection(patches, torch.ones(patches.shape[:2], device=patches.device))
            unpruned = self._correct(everything, batch) if whole else np.zeros(0, bool)
        areas = np.zeros(0)
        if batch.relevant is not None and whole:
            areas = auc(scores.double().cpu().numpy(), batch.relevant.cpu().numpy())
        return Outcome(correct, unpruned, areas, float(scores.std(-1).mean()) if scores.shape[1] > 1 else 0.0)

    def _correct(self, selection: Selection, batch: Batch) -> np.ndarray:
        return (self.task.ranks(selection, batch) == 0).cpu().numpy()


def columns(outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """Return the arrays of a result, over all images."""
    correct, unpruned = (np.concatenate([getattr(x, n) for x in outcomes]) for n in ("correct", "unpruned"))
    areas = np.concatenate([x.auc for x in outcomes])
    return {"correct": correct.astype(np.uint8), "unpruned": unpruned.astype(np.uint8), "auc": areas.astype(np.float32)}


def mean_spread(outcomes: Sequence[Outcome]) -> float:
    """Return the mean over groups of the standard deviation of an image's scores."""
    return float(np.mean([x.spread for x in outcomes]))

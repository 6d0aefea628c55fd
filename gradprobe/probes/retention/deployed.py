"""Accuracy of the frozen model on the K deployed tokens of each image and on all N."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import Batch, Selection, Task, hard_topk
from gradprobe.deferred import deferring
from gradprobe.errors import GradprobeError
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.settings import RANKED
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
        spread: standard deviation of an image's scores, mean over groups.
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
        limit: images at a time, where memory was full.
    """

    task: Task
    k: int
    name: str
    scores: Callable[[Batch], Tensor | None]
    workers: int
    limit: Limit = field(default_factory=Limit, compare=False)

    def pruned(self, groups: Sequence[Batch]) -> Outcome:
        """Return the outcome of images with K tokens alone; where memory is full, of smaller groups."""
        return self._outcome(groups, whole=False, progress=lambda done, images: None)

    def complete(self, groups: Sequence[Batch], progress: Callable[[int, int], None]) -> Outcome:
        """Return the outcome of images with K tokens and with all N; where memory is full, of smaller groups.

        Args:
            groups: test images.
            progress: called with (images done, of how many).
        """
        return self._outcome(groups, whole=True, progress=progress)

    def _outcome(self, groups: Sequence[Batch], whole: bool, progress: Callable[[int, int], None]) -> Outcome:
        answers, relevant, done, images = [], [], 0, sum(len(group.ids) for group in groups)
        with deferring():
            for group, answer in over_groups(partial(self._answers, whole=whole), groups, self.workers, self.limit):
                answers.append(answer)
                relevant += [] if group.relevant is None or not whole else [group.relevant]
                done += len(group.ids)
                progress(done, images)
            correct, unpruned, scores = zip(*answers, strict=True)  # a GPU is waited for from here on
            areas = np.zeros(0)
            if relevant:
                areas = auc(torch.cat(scores).double().cpu().numpy(), torch.cat(relevant).cpu().numpy())
            spreads = [each.std(-1).mean() if each.shape[1] > 1 else each.new_zeros(()) for each in scores]
            return Outcome(
                torch.cat(correct).cpu().numpy(),
                torch.cat(unpruned).cpu().numpy(),
                areas,
                float(np.mean(torch.stack(spreads).tolist())),
            )

    def _answers(self, batch: Batch, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether each image is right with K tokens and with all N, and its scores."""
        patches = batch.tokens.patches
        with torch.no_grad():
            scores = self.scores(batch)
            if scores is None:
                ranking = self.name.removeprefix(RANKED)
                raise GradprobeError(f"{ranking} does not rank the tokens of this model and these images")
            refuse_nonfinite(scores, "score", self.name, batch)
            correct = self._correct(hard_topk(patches, scores, self.k), batch)
            everything = Selection(patches, torch.ones(patches.shape[:2], device=patches.device))
            unpruned = self._correct(everything, batch) if whole else correct[:0]
        return correct, unpruned, scores

    def _correct(self, selection: Selection, batch: Batch) -> Tensor:
        return self.task.ranks(selection, batch) == 0


def columns(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the arrays of a result."""
    return {
        "correct": outcome.correct.astype(np.uint8),
        "unpruned": outcome.unpruned.astype(np.uint8),
        "auc": outcome.auc.astype(np.float32),
    }

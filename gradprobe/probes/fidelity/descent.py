"""From gradients in the scores to the scorer: gradients of groups of images, and the deployed loss after a step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Task, hard_topk, top_k_mask
from gradprobe.landscapes.functional import functional_call
from gradprobe.probes.gradients import gram_by_group, real_parameters, refuse_nonfinite, write_scorer_gradient
from gradprobe.statistics.agreement import different
from gradprobe.training.workers import ROWS, groups_of, in_threads, one_thread

GROUPS = 16  # of images, for the jackknife in parameters
VECTORS = 9  # gradients of a group held at a time: an operator's parts, raw and centred, and one of the reference
NUMBERS = 2e8  # of all of them (0.8 GB in float32); a larger scorer gets fewer groups
Array = NDArray[np.float64]


def deployed_losses(task: Task, batch: Batch, k: int, scores: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses of hard top-K for many rows of scores: forward passes of K tokens only, in full encoder calls.

    Args:
        task: frozen model and data.
        batch: the images.
        k: tokens kept.
        scores: ``(M, N)``.
        images: index in the batch of the image of each row, ``(M,)``.

    Returns:
        losses ``(M,)``, and 1 for each token kept, else 0, ``(M, N)``.
    """
    rows = ROWS.get(scores.device.type, 64)
    losses, kept = [], []
    with torch.no_grad():
        for i in range(0, len(scores), rows):
            sub = batch.subset(images[i : i + rows])
            selection = hard_topk(sub.tokens.patches, scores[i : i + rows], k)
            losses.append(task.losses(selection, sub))
            kept.append(selection.weights)
            refuse_nonfinite(losses[-1], "loss", "hard+gather", sub)
    return torch.cat(losses), torch.cat(kept)


def groups_for(task: Task, images: int) -> int:
    """Return the number of groups of images of a jackknife in parameters: 16, for a large scorer fewer, at least 4."""
    parameters = sum(p.numel() for p in real_parameters(task.scorer).values())
    return min(images, GROUPS, max(4, int(NUMBERS // (VECTORS * parameters))))


def group_gradients(task: Task, batch: Batch, u: Tensor, groups: int, workers: int) -> Tensor:
    """Return the scorer's gradients of groups, ``sum_{i in group} J_i^T u_i / I``, ``(G, V, P)``; they add up.

    Args:
        task: with the scorer that is differentiated.
        batch: I images.
        u: V gradients in the scores, ``(V, I, N)``.
        groups: G, of neighbouring images.
        workers: threads.
    """
    parameters = list(real_parameters(task.scorer).values())
    ends = np.linspace(0, len(batch.ids), groups + 1).round().astype(int)
    out = torch.empty(groups, len(u), sum(p.numel() for p in parameters), dtype=parameters[0].dtype)

    def work(g: int) -> None:
        part = slice(ends[g], ends[g + 1])
        sub = batch.subset(part)
        scores = task.scorer(sub.tokens.patches)
        share = len(sub.ids) / len(batch.ids)
        for v, each in enumerate(u[:, part]):
            write_scorer_gradient(out[g, v], scores, parameters, each.to(scores) * share)

    for _ in in_threads(work, range(groups), workers):
        pass
    return out


def own_products(rows: Tensor) -> tuple[Array, float]:
    """Return products of different draws between groups, ``(G, R, P) -> (G, G)``, and the variance of their sum."""
    g, r, p = rows.shape
    gram = _gram(rows.reshape(g * r, p)).reshape(g, r, g, r)
    return different(gram.transpose(0, 2, 1, 3))[0], float(different(gram.sum((0, 2)))[1])


def products(one: Tensor, other: Tensor) -> Array:
    """Return products between groups of two gradients ``(G, P)``, ``(G, G)``."""
    return _gram(torch.cat([one, other]))[: len(one), len(one) :]


def _gram(rows: Tensor) -> Array:
    """Return inner products of rows ``(V, P)``; on one thread, since BLAS adds in another order on two."""
    with one_thread():
        return gram_by_group(rows, [rows.shape[1]])[0].numpy()


@dataclass(frozen=True)
class HeldOut:
    """Held-out images at theta, to measure their deployed loss after steps along a direction.

    Attributes:
        task: frozen model, scorer and data.
        groups: held-out images as encoder calls take them.
        k: tokens kept.
        ladder: steps relative to the norm of theta.
        workers: threads.
        losses: at theta, ``(I_h,)``.
    """

    task: Task
    groups: tuple[Batch, ...]
    k: int
    ladder: tuple[float, ...]
    workers: int
    losses: Array

    @classmethod
    def of(cls, task: Task, batch: Batch, k: int, ladder: Sequence[float], workers: int) -> "HeldOut":
        """Evaluate held-out images at theta."""
        empty = cls(task, tuple(groups_of(batch)), k, tuple(ladder), workers, np.zeros(len(batch.ids)))
        params = {name: p.detach() for name, p in task.scorer.named_parameters()}
        losses = list(in_threads(empty._evaluate, empty._scored([params]), workers))
        return cls(task, empty.groups, k, empty.ladder, workers, np.concatenate(losses, 1)[0])

    def after(self, direction: Tensor) -> Array:
        """Return the deployed losses after steps ``theta - eta |theta| g / |g|``, ``(E, I_h)``.

        An image whose kept set is that at theta is not evaluated again.

        Args:
            direction: g, ``(P,)``; if it is zero, no step is taken.
        """
        theta = {name: p.detach() for name, p in self.task.scorer.named_parameters()}
        moving = list(real_parameters(self.task.scorer))
        size = math.sqrt(sum(float(theta[name].double().square().sum()) for name in moving))
        g = direction.double() / direction.double().norm().clamp(min=torch.finfo(torch.float64).tiny)
        pieces = g.split([theta[name].numel() for name in moving])
        points = [
            theta
            | {
                name: theta[name] - (eta * size * piece.reshape(theta[name].shape)).to(theta[name])
                for name, piece in zip(moving, pieces, strict=True)
            }
            for eta in self.ladder
        ]
        losses = list(in_threads(self._evaluate, self._scored([theta, *points]), self.workers))
        return np.concatenate(losses, 1)[1:]

    def _scored(self, points: list[dict[str, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Yield each group's scores at each point; in this thread, because `functional_call` is not for several."""
        for g, batch in enumerate(self.groups):
            with torch.no_grad():
                scores = [functional_call(self.task.scorer, point, (batch.tokens.patches,)) for point in points]
            yield g, torch.stack(scores)

    def _evaluate(self, item: tuple[int, Tensor]) -> Array:
        """Return losses ``(points, images)`` of a group; the first point's are known unless it is the only one."""
        g, scores = item
        batch, (count, images, n) = self.groups[g], item[1].shape
        start = sum(len(group.ids) for group in self.groups[:g])
        with torch.no_grad():
            kept = top_k_mask(scores.flatten(0, 1), self.k).reshape(count, images, n)
            changed = (kept != kept[0]).any(-1).flatten() if count > 1 else torch.ones(images, dtype=torch.bool)
            which = changed.nonzero()[:, 0].cpu()
            losses = np.tile(self.losses[start : start + images], count)
            if len(which):
                rows = scores.flatten(0, 1)[which.to(scores.device)]
                losses[which.numpy()] = deployed_losses(self.task, batch, self.k, rows, which % images)[0].cpu().numpy()
        return losses.reshape(count, images)

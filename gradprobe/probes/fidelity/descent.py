"""From gradients in the scores to the scorer: gradients of groups of images, and the deployed loss after a step."""

import math
from collections.abc import Callable, Iterator, Sequence
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
Tick = Callable[[int, int], None]


def deployed_losses(task: Task, batch: Batch, k: int, scores: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of hard top-K for many rows of scores, encoder calls filled, forward passes of K tokens only.

    Args:
        task: frozen model and data.
        batch: whose images they are.
        k: tokens kept.
        scores: ``(M, N)``.
        images: which image of the batch each row is about, ``(M,)``.

    Returns:
        losses ``(M,)`` and what was kept, 0 or 1, ``(M, N)``.
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
    """How many groups of images a jackknife in parameters has: 16, or as many as memory bears, at least 4."""
    parameters = sum(p.numel() for p in real_parameters(task.scorer).values())
    return min(images, GROUPS, max(4, int(NUMBERS // (VECTORS * parameters))))


def group_gradients(
    task: Task, batch: Batch, u: Tensor, groups: int, workers: int, tick: Tick | None = None
) -> Tensor:  # fmt: skip
    """Second stage for groups of images: ``sum_{i in group} J_i^T u_i / I``, ``(G, V, P)``; their sum is the gradient.

    Args:
        task: whose scorer is differentiated.
        batch: I images.
        u: V gradients in the scores, ``(V, I, N)``.
        groups: G, of neighbouring images.
        workers: threads.
        tick: told how many groups are done, and of how many.
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

    for done, _ in enumerate(in_threads(work, range(groups), workers), start=1):
        if tick:
            tick(done, groups)
    return out


def own_products(rows: Tensor) -> tuple[Array, float]:
    """Products of different draws between groups, ``(G, R, P) -> (G, G)``; and the variance of their sum's noise."""
    g, r, p = rows.shape
    gram = _gram(rows.reshape(g * r, p)).reshape(g, r, g, r)
    return different(gram.transpose(0, 2, 1, 3))[0], float(different(gram.sum((0, 2)))[1])


def products(one: Tensor, other: Tensor) -> Array:
    """Products between groups of two gradients ``(G, P)``, ``(G, G)``."""
    return _gram(torch.cat([one, other]))[: len(one), len(one) :]


def _gram(rows: Tensor) -> Array:
    """Inner products of rows ``(V, P)``; on one thread, since BLAS adds in another order on two."""
    with one_thread():
        return gram_by_group(rows, [rows.shape[1]])[0].numpy()


@dataclass(frozen=True)
class HeldOut:
    """Held-out images at theta: what each step along a direction does to their deployed loss.

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
        found = list(in_threads(empty._evaluate, empty._scored([params]), workers))
        return cls(task, empty.groups, k, empty.ladder, workers, np.concatenate(found, 1)[0])

    def after(self, direction: Tensor, tick: Tick | None = None) -> Array:
        """Deployed losses after steps ``theta - eta |theta| g / |g|``, ``(E, I_h)``.

        An image whose kept set is what it was at theta is not evaluated again.

        Args:
            direction: g, ``(P,)``; if it is zero, no step is taken.
            tick: told how many groups of images are done, and of how many.
        """
        theta = {name: p.detach() for name, p in self.task.scorer.named_parameters()}
        moving = list(real_parameters(self.task.scorer))
        size = math.sqrt(sum(float(theta[name].double().square().sum()) for name in moving))
        g = direction.double() / direction.double().norm().clamp(min=torch.finfo(torch.float64).tiny)
        pieces = g.split([theta[name].numel() for name in moving])
        points = [
            theta | {
                name: theta[name] - (eta * size * piece.reshape(theta[name].shape)).to(theta[name])
                for name, piece in zip(moving, pieces, strict=True)
            }
            for eta in self.ladder
        ]  # fmt: skip
        found = []
        for losses in in_threads(self._evaluate, self._scored([theta, *points]), self.workers):
            found.append(losses[1:])
            if tick:
                tick(len(found), len(self.groups))
        return np.concatenate(found, 1)

    def _scored(self, points: list[dict[str, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Each group's scores at each point; here, because `functional_call` is not for several threads."""
        for g, batch in enumerate(self.groups):
            with torch.no_grad():
                scores = [functional_call(self.task.scorer, point, (batch.tokens.patches,)) for point in points]
            yield g, torch.stack(scores)

    def _evaluate(self, item: tuple[int, Tensor]) -> Array:
        """Losses ``(points, images)`` of one group; those of the first point are known unless it is the only one."""
        g, scores = item
        batch, (count, images, n) = self.groups[g], item[1].shape
        start = sum(len(group.ids) for group in self.groups[:g])
        with torch.no_grad():
            kept = top_k_mask(scores.flatten(0, 1), self.k).reshape(count, images, n)
            changed = (kept != kept[0]).any(-1).flatten() if count > 1 else torch.ones(images, dtype=torch.bool)
            which = changed.nonzero()[:, 0].cpu()
            found = np.tile(self.losses[start : start + images], count)
            if len(which):
                rows = scores.flatten(0, 1)[which.to(scores.device)]
                found[which.numpy()] = deployed_losses(self.task, batch, self.k, rows, which % images)[0].cpu().numpy()
        return found.reshape(count, images)

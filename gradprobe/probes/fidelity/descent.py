"""From gradients in the scores to the scorer: gradients of groups of images, and the deployed loss after a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Task, hard_topk, top_k_mask
from gradprobe.deferred import deferring
from gradprobe.landscapes.functional import functional_call
from gradprobe.probes.gradients import (
    gram_by_group,
    home_of_rows,
    real_parameters,
    refuse_nonfinite,
    write_scorer_gradient,
)
from gradprobe.statistics.agreement import different
from gradprobe.training.memory import Limit, halving, rows_for
from gradprobe.training.workers import groups_of, in_threads, one_thread

GROUPS = 16  # of images, for the jackknife in parameters
VECTORS = 9  # gradients of a group held at a time: an operator's parts, raw and centred, and one of the reference
NUMBERS = 2e8  # of all of them (0.8 GB in float32); a larger scorer gets fewer groups
Array = NDArray[np.float64]
_scorer = Lock()  # `functional_call` is not for several threads


def deployed_losses(
    task: Task, batch: Batch, k: int, scores: Tensor, images: Tensor, limit: Limit | None = None
) -> tuple[Tensor, Tensor]:
    """Return losses of hard top-K for many rows of scores: forward passes of K tokens only, in full encoder calls.

    Args:
        task: frozen model and data.
        batch: the images.
        k: tokens kept.
        scores: ``(M, N)``.
        images: index in the batch of the image of each row, ``(M,)``.
        limit: rows that memory holds, lowered where it is full; None: not known.

    Returns:
        losses ``(M,)``, and 1 for each token kept, else 0, ``(M, N)``.
    """

    def work(rows: int) -> tuple[Tensor, Tensor]:
        losses, kept = [], []
        for i in range(0, len(scores), rows):
            sub = batch.subset(images[i : i + rows])
            selection = hard_topk(sub.tokens.patches, scores[i : i + rows], k)
            losses.append(task.losses(selection, sub))
            kept.append(selection.weights)
            refuse_nonfinite(losses[-1], "loss", "hard+gather", sub)
        return torch.cat(losses), torch.cat(kept)

    with torch.no_grad():
        return halving(work, rows_for(scores.device, scores.shape[1]), scores.device, limit)


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
    shape, like = (groups, len(u), sum(p.numel() for p in parameters)), parameters[0]
    out = torch.empty(shape, dtype=like.dtype, device=home_of_rows(math.prod(shape), like))
    u = u.to(like.device, non_blocking=True)

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
        limit: rows of an encoder call that memory holds.
    """

    task: Task
    groups: tuple[Batch, ...]
    k: int
    ladder: tuple[float, ...]
    workers: int
    losses: Array
    limit: Limit = field(default_factory=Limit, compare=False)

    @classmethod
    def of(
        cls, task: Task, batch: Batch, k: int, ladder: Sequence[float], workers: int, limit: Limit | None = None
    ) -> "HeldOut":
        """Evaluate held-out images at theta."""
        empty = cls(
            task, tuple(groups_of(batch)), k, tuple(ladder), workers, np.zeros(len(batch.ids)), limit or Limit()
        )
        params = {name: p.detach() for name, p in task.scorer.named_parameters()}
        return replace(empty, losses=empty._losses([params])[0])

    def after(self, direction: Tensor) -> Array:
        """Return the deployed losses after steps ``theta - eta |theta| g / |g|``, ``(E, I_h)``.

        An image whose kept set is that at theta is not evaluated again.

        Args:
            direction: g, ``(P,)``; if it is zero, no step is taken.
        """
        theta = {name: p.detach() for name, p in self.task.scorer.named_parameters()}
        moving = list(real_parameters(self.task.scorer))
        size = math.sqrt(sum(torch.stack([theta[name].double().square().sum() for name in moving]).tolist()))
        direction = direction.to(theta[moving[0]].device)
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
        return self._losses([theta, *points])[1:]

    def _losses(self, points: list[dict[str, Tensor]]) -> Array:
        """Return losses ``(points, I_h)``; the first point's are known unless it is the only one."""
        losses = np.tile(self.losses, (len(points), 1))
        with deferring():
            scores = list(in_threads(partial(self._scores, points), self.groups, self.workers))
            changed = torch.cat([self._changed(each) for each in scores], 1).cpu()  # of all groups at once
            masks = changed.split([len(group.ids) for group in self.groups], 1)
            items = zip(self.groups, scores, masks, strict=True)
            new = torch.cat(list(in_threads(self._deployed, items, self.workers)))
        numbers = np.split(new.cpu().numpy(), np.cumsum([int(mask.sum()) for mask in masks])[:-1])
        columns = np.split(losses, np.cumsum([len(group.ids) for group in self.groups])[:-1], 1)  # views
        for column, mask, each in zip(columns, masks, numbers, strict=True):
            column[mask.numpy()] = each
        return losses

    def _scores(self, points: list[dict[str, Tensor]], batch: Batch) -> Tensor:
        """Return a group's scores at each point, ``(points, images, N)``; one thread at a time, as calls need it."""
        scorer = self.task.scorer
        with _scorer, torch.no_grad():
            return torch.stack([functional_call(scorer, point, (batch.tokens.patches,)) for point in points])

    def _changed(self, scores: Tensor) -> Tensor:
        """Return the mask ``(points, images)`` of kept sets that differ from the first point's; all if it is alone."""
        count, images, n = scores.shape
        kept = top_k_mask(scores.flatten(0, 1), self.k).reshape(count, images, n)
        return (kept != kept[0]).any(-1) if count > 1 else kept.new_ones(count, images, dtype=torch.bool)

    def _deployed(self, item: tuple[Batch, Tensor, Tensor]) -> Tensor:
        """Return the losses of a group at the points and images of a mask."""
        batch, scores, mask = item
        which = mask.flatten().nonzero()[:, 0]
        if not len(which):
            return scores.new_empty(0)
        rows = scores.flatten(0, 1)[which.to(scores.device, non_blocking=True)]
        return deployed_losses(self.task, batch, self.k, rows, which % len(batch.ids), self.limit)[0]

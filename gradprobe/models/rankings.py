"""Rankings without training: baselines for a trained scorer, and where the truth is known an upper bound."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream, Task
from gradprobe.selectors.divprune import divprune
from gradprobe.selectors.zoo import zoo


def _random(task: Task, batch: Batch, noise: Noise) -> Tensor:
    return noise.uniform(batch.tokens.patches.shape[1:2], like=batch.tokens.patches)


def _norm(task: Task, batch: Batch, noise: Noise) -> Tensor:
    return batch.tokens.patches.norm(dim=-1)


def _projected_norm(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    projected = task.project(batch.tokens.patches)
    return None if projected is None else projected.norm(dim=-1)


def _class_attention(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    return task.attention(batch)


def _mean_attention(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    return task.attention(batch, "mean")


def _divprune(task: Task, batch: Batch, noise: Noise) -> Tensor:
    projected = task.project(batch.tokens.patches)
    return _scores_of(divprune(batch.tokens.patches if projected is None else projected), batch)


def _zoo(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    if task.project(batch.tokens.patches[:, :1]) is None:
        return None

    def project(tokens: Tensor) -> Tensor:
        projected = task.project(tokens)
        assert projected is not None
        return projected

    return _scores_of(zoo(batch.tokens.patches, project, noise), batch)


def _truth(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    return None if batch.relevant is None else batch.relevant + 0.5 * _random(task, batch, noise)


def _scores_of(order: Tensor, batch: Batch) -> Tensor:
    """Return scores ``(B, N)`` of an order of all tokens: N for the first, 1 for the last."""
    places = torch.arange(order.shape[1], 0, -1, device=order.device, dtype=batch.tokens.patches.dtype)
    return torch.empty_like(order, dtype=places.dtype).scatter_(1, order, places.expand_as(order))


RANKINGS: dict[str, Callable[[Task, Batch, Noise], Tensor | None]] = {
    "random": _random,
    "norm": _norm,
    "projected-norm": _projected_norm,
    "class-attention": _class_attention,
    "mean-attention": _mean_attention,
    "divprune": _divprune,
    "zoo": _zoo,
    "truth": _truth,
}


USUAL = tuple(name for name in RANKINGS if name not in ("projected-norm", "zoo"))  # shown unless others are named


def rank_scores(task: Task, ranking: str, batch: Batch, seed: int) -> Tensor | None:
    """Return scores ``(B, N)`` that rank tokens without a scorer; None where the task does not have them.

    - ``random``: uniform numbers, keyed by image;
    - ``norm``: the L2 norm of a token, and ``projected-norm`` behind a language model's projector;
    - ``class-attention``: attention of the class token in the last block of the unpruned model, which costs a whole
      forward pass; ``mean-attention``: of all patches on average;
    - ``divprune``: `gradprobe.selectors.divprune.divprune`, of projected tokens where there is a projector;
    - ``zoo``: `gradprobe.selectors.zoo.zoo`;
    - ``truth``: tokens that are known to matter first, the rest at random.

    Args:
        task: Frozen model and data.
        ranking: Name in `RANKINGS`.
        batch: Batch whose tokens are ranked.
        seed: Seed of the random numbers.
    """
    with torch.no_grad():
        return RANKINGS[ranking](task, batch, Noise(seed, batch.ids, generator=task.generator).stream(Stream.RANKING))

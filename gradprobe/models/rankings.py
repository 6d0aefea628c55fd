"""Rankings without training: baselines for a trained scorer, and on scenes an upper bound."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream, Task


def _random(task: Task, batch: Batch, noise: Noise) -> Tensor:
    return noise.uniform(batch.tokens.patches.shape[1:2], like=batch.tokens.patches)


def _norm(task: Task, batch: Batch, noise: Noise) -> Tensor:
    return batch.tokens.patches.norm(dim=-1)


def _class_attention(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    return task.attention(batch)


def _truth(task: Task, batch: Batch, noise: Noise) -> Tensor | None:
    return None if batch.relevant is None else batch.relevant + 0.5 * _random(task, batch, noise)


RANKINGS: dict[str, Callable[[Task, Batch, Noise], Tensor | None]] = {
    "random": _random,
    "norm": _norm,
    "class-attention": _class_attention,
    "truth": _truth,
}


def rank_scores(task: Task, ranking: str, batch: Batch, seed: int) -> Tensor | None:
    """Return scores ``(B, N)`` that rank tokens without a scorer; None where the task does not have them.

    - ``random``: uniform numbers, keyed by image;
    - ``norm``: the L2 norm of a token;
    - ``class-attention``: attention of the class token in the last block of the unpruned model, which costs a whole
      forward pass;
    - ``truth``: tokens that are known to matter first, the rest at random.

    Args:
        task: Frozen model and data.
        ranking: Name in `RANKINGS`.
        batch: Batch whose tokens are ranked.
        seed: Seed of the random numbers.
    """
    with torch.no_grad():
        return RANKINGS[ranking](task, batch, Noise(seed, batch.ids, generator=task.generator).stream(Stream.RANKING))

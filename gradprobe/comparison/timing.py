"""Times of an operator on a task, by which the size of a comparison is chosen."""

import time
from collections.abc import Callable

import torch

from gradprobe.comparison.sizes import Times
from gradprobe.core import Noise, SelectionOperator, Task, apply, hard_topk
from gradprobe.probes.gradients import score_gradient
from gradprobe.training.workers import one_thread


def timed(task: Task, operator: SelectionOperator, k: int, seed: int, name: str, group: int) -> Times:
    """Return seconds an image of an operator's gradient, its forward pass and the deployed tokens, on one thread.

    Args:
        task: open.
        operator: that selects.
        k: K, the tokens kept.
        seed: of the images and the noise.
        name: canonical name of the operator.
        group: images that are timed.
    """
    with task.running(), one_thread():
        (batch,) = task.batches(1, task.available(group), seed)
        scores = task.scorer(batch.tokens.patches).detach()
        noise = Noise(seed, batch.ids, generator=task.generator)

        def gradient() -> None:
            score_gradient(task, operator, k, batch, scores, noise, name)

        def forward() -> None:
            with torch.no_grad():
                task.losses(apply(operator, batch.tokens.patches, scores, k, noise, name), batch)

        def kept() -> None:
            with torch.no_grad():
                task.losses(hard_topk(batch.tokens.patches, scores, k), batch)

        return Times(*(_fastest(run) / len(batch.ids) for run in (gradient, forward, kept)))


def _fastest(run: Callable[[], None]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)

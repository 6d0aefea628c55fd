"""What is differentiated: the task's loss, an operator's own penalty, a score function's surrogate."""

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, SelectionOperator, Task, apply

TWIN = 1 << 40  # draws of the second sample: no probe counts as far


def objective(
    task: Task, operator: SelectionOperator, k: int, batch: Batch, scores: Tensor, noise: Noise, name: str
) -> tuple[Tensor, Tensor]:
    """The loss of each image, and the terms whose gradient in the scores is the operator's.

    The terms are ``loss + penalty``. An operator that gives a ``log_prob`` is asked for a second sample with other
    noise; with losses L, L' and log-probabilities l, l' the terms then have the gradient ``(L - L')(dl - dl') / 2``,
    the score function with the leave-one-out baseline, unbiased for any loss.

    Args:
        task: frozen model and data.
        operator: what selects.
        k: tokens kept.
        batch: B images.
        scores: ``(B, N)``, with or without a graph.
        noise: of the first sample.
        name: what errors call the operator.

    Returns:
        Losses ``(B,)`` of the first sample, and the terms ``(B,)``: their values are ``loss + penalty``, and they have
        no graph if nothing lets a gradient through.

    Raises:
        GradprobeError: an operator that breaks its contract.

    Source: leave-one-out baseline: Kool, van Hoof and Welling, "Buy 4 REINFORCE samples, get a baseline for free",
        2019, with two samples.
    """
    selection = apply(operator, batch.tokens.patches, scores, k, noise, name)
    losses = task.losses(selection, batch)
    terms = losses if selection.penalty is None else losses + selection.penalty
    if selection.log_prob is None:
        return losses, terms
    twin = apply(operator, batch.tokens.patches, scores, k, noise.draw(noise.index + TWIN), name)
    assert twin.log_prob is not None
    with torch.no_grad():
        advantage = losses - task.losses(twin, batch)
    apart = selection.log_prob - twin.log_prob
    return losses, terms + advantage * (apart - apart.detach()) / 2

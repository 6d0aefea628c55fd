"""Loss that is differentiated: the task's, plus an operator's penalty, plus the surrogate of a score function."""

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, SelectionOperator, Task, apply
from gradprobe.errors import GradprobeError

TWIN = 1 << 40  # draws of the second sample: no probe counts that far


def surrogate_loss(
    task: Task, operator: SelectionOperator, k: int, batch: Batch, scores: Tensor, noise: Noise, name: str
) -> tuple[Tensor, Tensor]:
    """Return the per-image losses, and the terms whose gradient in the scores is the operator's.

    The terms are ``loss + penalty``. An operator with a ``log_prob`` is applied a second time, with other noise; with
    losses L, L' and log-probabilities l, l' the terms then have the gradient ``(L - L')(dl - dl') / 2``: the score
    function with the leave-one-out baseline, unbiased for any loss.

    Args:
        task: Frozen model and data.
        operator: Selection operator.
        k: Tokens kept.
        batch: B images.
        scores: ``(B, N)``, with or without a graph.
        noise: Noise of the first sample.
        name: The operator's name in error messages.

    Returns:
        Losses ``(B,)`` of the first sample, and the terms ``(B,)`` of value ``loss + penalty``; the terms have no graph
        if the operator has no gradient.

    Raises:
        GradprobeError: The operator breaks its contract.

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


def training_loss(
    task: Task, operator: SelectionOperator, k: int, batch: Batch, noise: Noise, name: str
) -> tuple[Tensor, Tensor]:
    """Return the per-image losses ``(B,)`` under the task's scorer, and the sum whose gradient trains it.

    Raises:
        GradprobeError: The operator has no gradient.
    """
    scores = task.scorer(batch.tokens.patches)
    losses, terms = surrogate_loss(task, operator, k, batch, scores, noise, name)
    total = terms.sum()
    if not total.requires_grad:
        raise GradprobeError(
            f"operator {name} gives the scorer no gradient, so it cannot train one; give another --op, or --steps 0 "
            "where the probe takes it"
        )
    return losses.detach(), total

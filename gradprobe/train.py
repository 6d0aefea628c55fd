"""Training a scorer through an operator."""

from collections.abc import Callable, Iterator

import torch

from gradprobe.core import Noise, SelectionOperator, Task, apply
from gradprobe.errors import GradprobeError

LEARNING_RATE = 2e-4  # DiffPrune, appendix A


def training(
    task: Task,
    operator: SelectionOperator,
    k: int,
    name: str,
    *,
    seed: int,
    batch_size: int,
    learning_rate: float = LEARNING_RATE,
) -> Iterator[int]:
    """Train the task's scorer in place by AdamW at a constant rate; yields the number of steps done, without end.

    A constant rate makes step S of a long run the same scorer as the end of a run of S steps.

    Raises:
        GradprobeError: the operator has no gradient to train with, or the loss is not finite.
    """
    parameters = [p for p in task.scorer.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate)
    for step, batch in enumerate(task.training_batches(batch_size, seed), start=1):
        scores = task.scorer(batch.tokens.patches)
        selection = apply(operator, batch.tokens.patches, scores, k, Noise(seed, batch.ids).draw(step), name)
        losses = task.losses(selection, batch)
        loss = losses.mean()
        if selection.log_prob is not None:
            loss = loss + (losses.detach() * selection.log_prob).mean()
        if not loss.requires_grad:
            raise GradprobeError(f"operator {name} gives the scorer no gradient, so it cannot train one; use --steps 0")
        if not torch.isfinite(loss):
            raise GradprobeError(f"operator {name}: the loss is not finite at training step {step}; nothing was stored")
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimiser.step()
        optimiser.zero_grad()
        yield step


def train(
    task: Task,
    operator: SelectionOperator,
    k: int,
    name: str,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    learning_rate: float = LEARNING_RATE,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Train the task's scorer in place for some steps (0: it stays as it is); see `training`.

    Args:
        task: whose scorer is trained.
        operator: through which.
        k: tokens kept.
        name: what errors and progress call the operator.
        steps: how many.
        seed: of batches and noise.
        batch_size: images in a step.
        learning_rate: of AdamW.
        progress: called with (what, done, of how many).
    """
    if not steps:
        return
    for step in training(task, operator, k, name, seed=seed, batch_size=batch_size, learning_rate=learning_rate):
        if progress:
            progress(f"{name}: training", step, steps)
        if step == steps:
            return

"""Recipe of a training, and training at a constant rate."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gradprobe.core import Noise, RaggedBatch, SelectionOperator, Task
from gradprobe.deferred import deferring, refuse
from gradprobe.errors import GradprobeError
from gradprobe.operators.registry import label
from gradprobe.ranges import make_plain
from gradprobe.training.surrogate_loss import training_loss


@dataclass(frozen=True)
class Recipe:
    """Recipe for training a scorer: AdamW, the learning rate falling to 0 and tau to ``tau_end`` by a cosine.

    ``rate(t) = learning_rate (1 + cos(pi t / steps)) / 2`` and ``tau(t) = tau_end + (tau_start - tau_end)
    (1 + cos(pi t / steps)) / 2`` for step t = 0 .. steps - 1.

    Source: DiffPrune, appendix A (batches of 32, tau from 2.0 to 0.1, cosine decay).

    Attributes:
        steps: Number of steps.
        batch_size: Images a step.
        learning_rate: Learning rate of the first step.
        weight_decay: Weight decay of AdamW.
        tau_start: Temperature of the first step; None: the operator keeps its own.
        tau_end: Temperature at the end of the decay.
        seed: Seed of batches and noise.
        tau_steps: Steps of the temperature's decay, after which it is held; None: all.

    Example:
        >>> recipe = Recipe(steps=4)
        >>> [round(recipe.tau(t), 2) for t in range(4)]
        [2.0, 1.72, 1.05, 0.38]
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3  # the paper's 2e-4 is for thousands of steps
    weight_decay: float = 0.01
    tau_start: float | None = 2.0
    tau_end: float | None = 0.1
    seed: int = 0
    tau_steps: int | None = None

    def __post_init__(self) -> None:
        make_plain(self)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate * _left(step, self.steps)

    def tau(self, step: int) -> float:
        """Return the temperature of a step."""
        assert self.tau_start is not None and self.tau_end is not None
        return self.tau_end + (self.tau_start - self.tau_end) * _left(step, self.tau_steps or self.steps)


def _left(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def training(
    task: Task, operator: SelectionOperator, k: int, *, seed: int, batch_size: int, learning_rate: float
) -> Iterator[int]:
    """Train the task's scorer in place by AdamW at a constant rate, yielding the number of steps done, without end.

    At a constant rate the scorer after S steps of a long run is that at the end of a run of S steps.

    Raises:
        GradprobeError: The operator has no gradient, or the loss is not finite.
    """
    parameters, name = [p for p in task.scorer.parameters() if p.requires_grad], label(operator)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate)
    for step, batch in enumerate(task.training_batches(batch_size, seed), start=1):
        if isinstance(batch, RaggedBatch):
            raise GradprobeError("the images have different numbers of tokens; probes need images of one size")
        noise = Noise(seed, batch.ids, generator=task.generator).draw(step)
        losses, total = training_loss(task, operator, k, batch, noise, name)
        loss = total / len(losses)
        refuse(~loss.isfinite(), partial(_not_finite, name, step))
        descend(optimiser, parameters, torch.autograd.grad(loss, parameters, allow_unused=True))
        yield step


def _not_finite(name: str, step: int, bad: Tensor) -> GradprobeError:
    return GradprobeError(f"operator {name}: the loss is not finite at training step {step}; nothing was stored")


def train(
    task: Task, operator: SelectionOperator, k: int, *, steps: int, seed: int, batch_size: int, learning_rate: float,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:  # fmt: skip
    """Train the task's scorer in place for a number of steps (0: not at all); see `training`."""
    if not steps:
        return
    with deferring():
        for step in training(task, operator, k, seed=seed, batch_size=batch_size, learning_rate=learning_rate):
            if progress:
                progress(f"{label(operator)}: training", step, steps)
            if step == steps:
                return


def descend(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Take a step of the optimiser along some gradients, and leave none behind."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
    optimiser.zero_grad()

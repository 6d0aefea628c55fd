"""Training a scorer through an operator."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, Noise, RaggedBatch, Selection, SelectionOperator, Task
from gradprobe.errors import GradprobeError
from gradprobe.operators.temperature import at_tau
from gradprobe.training.surrogate_loss import surrogate_loss
from gradprobe.training.workers import groups_of, in_threads

LEARNING_RATE = 2e-4  # DiffPrune, appendix A
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True)
class Recipe:
    """How a scorer is trained: AdamW with a cosine decay to 0, tau falling by a cosine.

    ``rate(t) = learning_rate (1 + cos(pi t / steps)) / 2`` and ``tau(t) = tau_end + (tau_start - tau_end)
    (1 + cos(pi t / steps)) / 2`` for step t = 0 .. steps - 1.

    Source: DiffPrune, appendix A (batches of 32, tau from 2.0 to 0.1, cosine decay).

    Attributes:
        steps: how many.
        batch_size: images in a step.
        learning_rate: at the start.
        weight_decay: of AdamW.
        tau_start: temperature of the first step; None: the operator keeps its own.
        tau_end: what it falls to.
        seed: of batches and noise.
        tau_steps: after how many steps the temperature has fallen and is held; None: at the end.

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

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * _left(step, self.steps)

    def tau(self, step: int) -> float:
        """Temperature of a step."""
        assert self.tau_start is not None and self.tau_end is not None
        return self.tau_end + (self.tau_start - self.tau_end) * _left(step, self.tau_steps or self.steps)


def _left(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


@dataclass(frozen=True)
class Denoised:
    """An operator whose tokens a denoiser realigns before the frozen model reads them; for training only.

    ``D(T(X; alpha))``. Source: DiffPrune, section 4.4.

    Attributes:
        operator: what selects.
        denoiser: tokens ``(B, M, D)`` -> tokens.
    """

    operator: SelectionOperator
    denoiser: nn.Module

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Patches ``(B, N, D)`` and scores ``(B, N)`` -> what the frozen model reads."""
        selection = self.operator(patches, scores, k, noise=noise)
        return dataclasses.replace(selection, tokens=self.denoiser(selection.tokens))


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes works on.

    Attributes:
        rank: which process, from 0 on.
        count: how many there are.
        add: tensors -> their sums over all processes, on each of them.
    """

    rank: int
    count: int
    add: Callable[[list[Tensor]], list[Tensor]]


class Fitting:
    """A scorer on its way through a recipe; all that decides the steps to come can be saved and put back.

    Each step's batch is split into groups of 8 images, one thread each, and the groups' gradients are added in their
    order: the result does not depend on the number of threads.

    Args:
        task: whose scorer is trained in place, and its denoiser if it has one.
        operator: through which.
        k: tokens kept, or what tells them from an image's number of tokens.
        name: what errors call the operator.
        recipe: how.
        workers: threads.
        rows: images of a group; None: 8 on a CPU, 64 on a GPU.
        share: the groups of each batch that this process works on; None: all.
    """

    def __init__(
        self, task: Task, operator: SelectionOperator, k: int | Callable[[int], int], name: str, recipe: Recipe,
        workers: int, *, rows: int | None = None, share: Share | None = None,
    ):  # fmt: skip
        self._task, self._operator, self._name, self._workers = task, operator, name, workers
        self._k = k if callable(k) else lambda n: k
        self._rows, self._share = rows, share
        self.recipe = recipe
        self.losses: list[float] = []
        self._parameters = {n: p for n, p in task.scorer.named_parameters() if p.requires_grad}
        if task.denoiser is not None:
            self._parameters |= {f"denoiser.{n}": p for n, p in task.denoiser.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def state(self) -> dict[str, Tensor]:
        """Parameters, AdamW's moments and the losses so far, by name."""
        found = {f"scorer.{n}": p.detach() for n, p in self.named()}
        for name, parameter in self.named():
            for what, value in self._optimiser.state.get(parameter, {}).items():
                found[f"{what}.{name}"] = value
        return found | {"losses": torch.tensor(self.losses, dtype=torch.float64)}

    def put_back(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.losses = state["losses"].tolist()
        for name, parameter in self.named():
            parameter.data.copy_(state[f"scorer.{name}"])
            moments = {w: state[f"{w}.{name}"].clone() for w in _MOMENTS if f"{w}.{name}" in state}
            if moments:  # AdamW has none for a parameter that never had a gradient
                self._optimiser.state[parameter] = moments

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that are trained."""
        return list(self._parameters.items())

    def run(self) -> Iterator[int]:
        """Train to the end of the recipe; yields the number of steps done after each.

        Raises:
            GradprobeError: the operator has no gradient to train with, or the loss is not finite.
        """
        recipe = self.recipe
        done = len(self.losses)
        batches = self._task.training_batches(recipe.batch_size, recipe.seed, start=done)
        # The next batch is read and embedded while this one trains.
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as ahead:
            coming = ahead.submit(next, batches)
            for step in range(done, recipe.steps):
                operator = self.operator(step)
                batch = coming.result()
                if step + 1 < recipe.steps:
                    coming = ahead.submit(next, batches)
                loss, gradients = self._gradients(operator, batch, step)
                if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
                    raise self._broken("gradient", step)
                for group in self._optimiser.param_groups:
                    group["lr"] = recipe.rate(step)
                _descend(self._optimiser, list(self._parameters.values()), gradients)
                self.losses.append(loss)
                yield step + 1

    def operator(self, step: int) -> SelectionOperator:
        """What the scorer is trained through at a step: at its temperature, with the denoiser behind it."""
        recipe, denoiser = self.recipe, self._task.denoiser
        operator = self._operator if recipe.tau_start is None else at_tau(self._operator, recipe.tau(step))
        return operator if denoiser is None else Denoised(operator, denoiser)

    def _gradients(
        self, operator: SelectionOperator, batch: Batch | RaggedBatch, step: int
    ) -> tuple[float, list[Tensor | None]]:
        """The batch's mean loss and its gradient, group by group."""
        parameters = list(self._parameters.values())

        def work(group: Batch) -> tuple[float, tuple[Tensor | None, ...]]:
            noise = Noise(self.recipe.seed, group.ids).draw(step + 1)
            k = self._k(group.tokens.patches.shape[1])
            losses, total = _training_loss(self._task, operator, k, group, noise, self._name)
            if not (finite := losses.isfinite()).all():
                ids = [str(i) for i, good in zip(group.ids, finite.tolist(), strict=True) if not good]
                raise self._broken("loss", step, f" (image ids {', '.join(ids)})")
            found = torch.autograd.grad(total / len(batch.ids), parameters, allow_unused=True)
            return float(losses.double().sum()), found

        total = 0.0
        summed: list[Tensor | None] = [None] * len(parameters)
        groups = groups_of(batch, self._rows)
        mine = groups if self._share is None else groups[self._share.rank :: self._share.count]
        for loss, found in in_threads(work, mine, self._workers):
            total += loss
            summed = [b if a is None else a if b is None else a + b for a, b in zip(summed, found, strict=True)]
        if self._share is not None:
            own = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, summed, strict=True)]
            told = torch.tensor([total, *(g is not None for g in summed)], dtype=torch.float64, device=own[0].device)
            *everyone, told = self._share.add([*own, told])
            total, *there = told.tolist()
            summed = [g if known else None for g, known in zip(everyone, there, strict=True)]  # as alone
        return total / len(batch.ids), summed

    def _broken(self, what: str, step: int, where: str = "") -> GradprobeError:
        return GradprobeError(
            f"operator {self._name}: the {what} is not finite at training step {step + 1}{where}; try a lower "
            "--learning-rate, a --tau that ends higher, or --dtype float64"
        )


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
        if isinstance(batch, RaggedBatch):
            raise GradprobeError("the images have different numbers of tokens; probes need images of one size")
        losses, total = _training_loss(task, operator, k, batch, Noise(seed, batch.ids).draw(step), name)
        loss = total / len(losses)
        if not torch.isfinite(loss):
            raise GradprobeError(f"operator {name}: the loss is not finite at training step {step}; nothing was stored")
        _descend(optimiser, parameters, torch.autograd.grad(loss, parameters, allow_unused=True))
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


def _training_loss(
    task: Task, operator: SelectionOperator, k: int, batch: Batch, noise: Noise, name: str
) -> tuple[Tensor, Tensor]:
    """The losses of a batch ``(B,)``, and the sum whose gradient trains the scorer.

    Raises:
        GradprobeError: the operator lets no gradient through.
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


def _descend(optimiser: torch.optim.Optimizer, parameters: list, gradients) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
    optimiser.zero_grad()

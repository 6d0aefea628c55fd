"""Resumable trainer of a scorer, with a denoiser if the task has one."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, Noise, RaggedBatch, Selection, SelectionOperator, Task
from gradprobe.errors import GradprobeError
from gradprobe.operators.temperature import at_tau
from gradprobe.training.checkpoint import adamw_state, load_adamw_state
from gradprobe.training.surrogate_loss import training_loss
from gradprobe.training.train import Recipe, descend
from gradprobe.training.workers import groups_of, in_threads


@dataclass(frozen=True)
class Denoised:
    """Operator followed by a denoiser that realigns its tokens; for training only.

    ``D(T(X; alpha))``. Source: DiffPrune, section 4.4.

    Attributes:
        operator: Selection operator.
        denoiser: Tokens ``(B, M, D)`` -> tokens ``(B, M, D)``.
    """

    operator: SelectionOperator
    denoiser: nn.Module

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Patches ``(B, N, D)`` and scores ``(B, N)`` -> selection with denoised tokens."""
        selection = self.operator(patches, scores, k, noise=noise)
        return dataclasses.replace(selection, tokens=self.denoiser(selection.tokens))


@dataclass(frozen=True)
class Shard:
    """Part of every batch that one of several processes works on.

    Attributes:
        rank: Rank of the process, from 0 on.
        count: Number of processes.
        all_reduce: Function from tensors to their sums over all processes.
    """

    rank: int
    count: int
    all_reduce: Callable[[list[Tensor]], list[Tensor]]


class ScorerTrainer:
    """Trainer of a scorer through an operator; resumable by `state_dict` and `load_state_dict`.

    Each batch is split into micro-batches, one a thread, whose gradients are added in their order: the result does not
    depend on the number of threads.

    Args:
        task: Task whose scorer (and denoiser, if it has one) is trained in place.
        operator: Selection operator.
        k: Tokens kept, or a function from an image's number of tokens to it.
        name: The operator's name in error messages.
        recipe: Recipe of the training.
        workers: Number of threads.
        rows: Images of a micro-batch; None: 8 on a CPU, 64 on a GPU.
        shard: The micro-batches that this process works on; None: all.
    """

    def __init__(
        self, task: Task, operator: SelectionOperator, k: int | Callable[[int], int], name: str, recipe: Recipe,
        workers: int, *, rows: int | None = None, shard: Shard | None = None,
    ):  # fmt: skip
        self._task, self._operator, self._name, self._workers = task, operator, name, workers
        self._k = k if callable(k) else lambda n: k
        self._rows, self._shard = rows, shard
        self.recipe = recipe
        self.losses: list[float] = []
        self._parameters = {n: p for n, p in task.scorer.named_parameters() if p.requires_grad}
        if task.denoiser is not None:
            self._parameters |= {f"denoiser.{n}": p for n, p in task.denoiser.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters, AdamW's moments and the losses so far, by name."""
        parameters = {f"scorer.{n}": p.detach() for n, p in self.named_parameters()}
        losses = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        return parameters | adamw_state(self._optimiser, self.named_parameters()) | losses

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from a `state_dict`."""
        self.losses = state["losses"].tolist()
        for name, parameter in self.named_parameters():
            parameter.data.copy_(state[f"scorer.{name}"])
        load_adamw_state(self._optimiser, self.named_parameters(), state)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the trained parameters with their names."""
        return list(self._parameters.items())

    def run(self) -> Iterator[int]:
        """Train to the end of the recipe, yielding the number of steps done after each.

        Raises:
            GradprobeError: The operator has no gradient, or loss or gradient is not finite.
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
                    raise self._not_finite("gradient", step)
                for group in self._optimiser.param_groups:
                    group["lr"] = recipe.rate(step)
                descend(self._optimiser, list(self._parameters.values()), gradients)
                self.losses.append(loss)
                yield step + 1

    def operator(self, step: int) -> SelectionOperator:
        """Return the operator of a step: at its temperature, followed by the denoiser."""
        recipe, denoiser = self.recipe, self._task.denoiser
        operator = self._operator if recipe.tau_start is None else at_tau(self._operator, recipe.tau(step))
        return operator if denoiser is None else Denoised(operator, denoiser)

    def _gradients(
        self, operator: SelectionOperator, batch: Batch | RaggedBatch, step: int
    ) -> tuple[float, list[Tensor | None]]:
        """Return the batch's mean loss and its gradient, accumulated over micro-batches."""
        parameters = list(self._parameters.values())

        def work(group: Batch) -> tuple[float, tuple[Tensor | None, ...]]:
            noise = Noise(self.recipe.seed, group.ids).draw(step + 1)
            k = self._k(group.tokens.patches.shape[1])
            losses, total = training_loss(self._task, operator, k, group, noise, self._name)
            if not (finite := losses.isfinite()).all():
                ids = [str(i) for i, good in zip(group.ids, finite.tolist(), strict=True) if not good]
                raise self._not_finite("loss", step, f" (image ids {', '.join(ids)})")
            gradients = torch.autograd.grad(total / len(batch.ids), parameters, allow_unused=True)
            return float(losses.double().sum()), gradients

        total = 0.0
        summed: list[Tensor | None] = [None] * len(parameters)
        groups, shard = groups_of(batch, self._rows), self._shard
        mine = groups if shard is None else groups[shard.rank :: shard.count]
        for loss, gradients in in_threads(work, mine, self._workers):
            total += loss
            summed = [b if a is None else a if b is None else a + b for a, b in zip(summed, gradients, strict=True)]
        if shard is not None:
            local = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, summed, strict=True)]
            counts = torch.tensor([total, *(g is not None for g in summed)], dtype=torch.float64).to(local[0].device)
            *reduced, counts = shard.all_reduce([*local, counts])
            total, *used = counts.tolist()  # a parameter without a gradient on any process has none, as with one
            summed = [g if known else None for g, known in zip(reduced, used, strict=True)]
        return total / len(batch.ids), summed

    def _not_finite(self, quantity: str, step: int, where: str = "") -> GradprobeError:
        return GradprobeError(
            f"operator {self._name}: the {quantity} is not finite at training step {step + 1}{where}; try a lower "
            "--learning-rate, a --tau that ends higher, or --dtype float64"
        )

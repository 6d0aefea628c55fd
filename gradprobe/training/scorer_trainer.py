"""Resumable trainer of a scorer, with a denoiser if the task has one."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, Noise, RaggedBatch, Selection, SelectionOperator, Task
from gradprobe.deferred import refuse
from gradprobe.errors import GradprobeError
from gradprobe.operators.temperature import at_tau
from gradprobe.training.checkpoint import adamw_state, load_adamw_state
from gradprobe.training.joined import ByBudget, Joined
from gradprobe.training.memory import MOST, Limit, training_rows
from gradprobe.training.scalars import Scalars
from gradprobe.training.surrogate_loss import training_loss
from gradprobe.training.train import Recipe, descend
from gradprobe.training.workers import groups_of, over_groups

Item = TypeVar("Item")


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
        lockstep: True if all processes must do equally many passes, as where the frozen model is spread over them.
    """

    rank: int
    count: int
    all_reduce: Callable[[list[Tensor]], list[Tensor]]
    lockstep: bool = False

    def part(self, groups: Sequence[Item]) -> tuple[list[Item], int]:
        """Return this process's micro-batches and the number that counts; in lockstep one too many fills a gap.

        Example:
            >>> [Shard(rank, 2, list, lockstep=True).part("abc") for rank in range(2)]
            [(['a', 'c'], 2), (['b', 'a'], 1)]
        """
        own = list(groups[self.rank :: self.count])
        gap = self.lockstep and len(own) < -(-len(groups) // self.count)
        return own + list(groups[:gap]), len(own)


def limit_of(shard: Shard | None, unit: int = 1) -> Limit:
    """Return the limit of a training's micro-batches; in lockstep a process may not halve them on its own."""
    return Limit(unit=MOST if shard is not None and shard.lockstep else unit)


class ScorerTrainer:
    """Trainer of a scorer through an operator; resumable by `state_dict` and `load_state_dict`.

    Each batch is split into micro-batches, one a thread, whose gradients are added in their order: the result does not
    depend on the number of threads.

    A `gradprobe.training.joined.Joined` task has S scorers, which are trained side by side: then micro-batches hold a
    multiple of S images, and losses are those of each. Errors of a loss or gradient come a little later on a GPU where
    the loop over `run` is inside `gradprobe.deferred.deferring`.

    Args:
        task: Task whose scorer (and denoiser, if it has one) is trained in place.
        operator: Selection operator.
        k: Tokens kept, or a function from an image's number of tokens to it.
        name: The operator's name in error messages.
        recipe: Recipe of the training.
        workers: Number of threads.
        rows: Images of a micro-batch; None: those of `gradprobe.training.memory.training_rows`.
        shard: The micro-batches that this process works on; None: all.
    """

    def __init__(
        self, task: Task, operator: SelectionOperator, k: int | Callable[[int], int], name: str, recipe: Recipe,
        workers: int, *, rows: int | None = None, shard: Shard | None = None,
    ):  # fmt: skip
        self._task, self._operator, self._name, self._workers = task, operator, name, workers
        self._k = k if callable(k) else lambda n: k
        self._rows, self._shard = rows, shard
        self._seeds = task.seeds if isinstance(task, Joined) else (recipe.seed,)
        self._limit = limit_of(shard, len(self._seeds))
        self.recipe = recipe
        self._losses = Scalars()
        self._parameters = {n: p for n, p in task.scorer.named_parameters() if p.requires_grad}
        if task.denoiser is not None:
            self._parameters |= {f"denoiser.{n}": p for n, p in task.denoiser.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters, AdamW's moments and the losses so far, by name."""
        parameters = {f"scorer.{n}": p.detach() for n, p in self.named_parameters()}
        losses = {"losses": torch.tensor(self.losses, dtype=torch.float64).transpose(0, -1).contiguous()}
        return parameters | adamw_state(self._optimiser, self.named_parameters()) | losses

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a `state_dict`."""
        self._losses.load(state["losses"].transpose(0, -1).tolist())
        for name, parameter in self.named_parameters():
            parameter.data.copy_(state[f"scorer.{name}"])
        load_adamw_state(self._optimiser, self.named_parameters(), state)

    def tokens_kept(self, n: int) -> int:
        """Return the number of tokens kept of an image's n."""
        return self._k(n)

    @property
    def done(self) -> int:
        """Number of steps done."""
        return len(self._losses)

    @property
    def known_losses(self) -> list[Any]:
        """Losses of the steps that a GPU has finished; it is not waited for."""
        return self._losses.known()

    @property
    def losses(self) -> list[Any]:
        """Mean loss of each step, or of each scorer at each step; a GPU is waited for."""
        return self._losses.all()

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the trained parameters with their names."""
        return list(self._parameters.items())

    def run(self) -> Iterator[int]:
        """Train to the end of the recipe, yielding the number of steps done after each.

        Raises:
            GradprobeError: The operator has no gradient, or loss or gradient is not finite.
        """
        recipe = self.recipe
        done = self.done
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
                largest = [g.abs().amax() for g in gradients if g is not None and g.numel()]
                refuse(~torch.stack(largest).isfinite(), partial(self._bad_gradient, step))
                for group in self._optimiser.param_groups:
                    group["lr"] = recipe.rate(step)
                descend(self._optimiser, list(self._parameters.values()), gradients)
                self._losses.append(loss)
                yield step + 1

    def operator(self, step: int) -> SelectionOperator:
        """Return the operator of a step: at its temperature, followed by the denoiser."""
        recipe, denoiser = self.recipe, self._task.denoiser
        operator = self._operator if recipe.tau_start is None else at_tau(self._operator, recipe.tau(step))
        if isinstance(self._task, Joined) and len(set(self._task.budgets)) > 1:
            operator = ByBudget(operator, self._task.budgets)
        return operator if denoiser is None else Denoised(operator, denoiser)

    def _gradients(
        self, operator: SelectionOperator, batch: Batch | RaggedBatch, step: int
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the batch's mean loss (of each scorer, ``(S,)``) and its gradient, accumulated over micro-batches."""
        parameters, copies = list(self._parameters.values()), len(self._seeds)
        images = len(batch.ids) // copies

        def work(group: Batch) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            seeds = self._seeds[0] if copies == 1 else self._seeds * (len(group.ids) // copies)
            noise = Noise(seeds, group.ids, generator=self._task.generator).draw(step + 1)
            k = self._k(group.tokens.patches.shape[1])
            losses, total = training_loss(self._task, operator, k, group, noise, self._name)
            refuse(~losses.isfinite(), partial(self._bad_losses, step, group.ids))
            gradients = torch.autograd.grad(total / images, parameters, allow_unused=True)
            wide = losses.double()
            return wide.sum() if copies == 1 else wide.view(-1, copies).sum(0), gradients

        total = parameters[0].new_zeros((), dtype=torch.float64)
        summed: list[Tensor | None] = [None] * len(parameters)
        groups, shard = self._groups(batch), self._shard
        mine, counted = (groups, len(groups)) if shard is None else shard.part(groups)
        for number, (_, (loss, gradients)) in enumerate(over_groups(work, mine, self._workers, self._limit)):
            if shard is not None and shard.lockstep and number >= counted:
                continue
            total = total + loss
            summed = [b if a is None else a if b is None else a + b for a, b in zip(summed, gradients, strict=True)]
        if shard is not None:
            local = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, summed, strict=True)]
            used = torch.tensor([g is not None for g in summed], dtype=torch.float64).to(total.device)
            *reduced, counts = shard.all_reduce([*local, torch.cat([total[None], used])])
            total, flags = counts[0], counts[1:].tolist()
            # A parameter without a gradient on any process has none, as with one.
            summed = [g if known else None for g, known in zip(reduced, flags, strict=True)]
        return total / images, summed

    def _groups(self, batch: Batch | RaggedBatch) -> list[Batch]:
        """Return the micro-batches; those of several scorers hold a multiple of their number of images."""
        copies, groups = len(self._seeds), list[Batch]()
        for part in batch.parts if isinstance(batch, RaggedBatch) else (batch,):
            rows = self._rows or training_rows(part.tokens.patches)
            groups += groups_of(part, copies * max(1, round(rows / copies)))
        return groups

    def _bad_losses(self, step: int, ids: tuple[int, ...], bad: Tensor) -> GradprobeError:
        wrong = [str(i) for i, each in zip(ids, bad.tolist(), strict=True) if each]
        return self._not_finite("loss", step, f" (image ids {', '.join(wrong)})")

    def _bad_gradient(self, step: int, bad: Tensor) -> GradprobeError:
        return self._not_finite("gradient", step)

    def _not_finite(self, quantity: str, step: int, where: str = "") -> GradprobeError:
        return GradprobeError(
            f"operator {self._name}: the {quantity} is not finite at training step {step + 1}{where}; try a lower "
            "--learning-rate, a --tau that ends higher, or --dtype float64"
        )

"""Losses of a pruner in training on a fixed set of held-out captions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradprobe import core
from gradprobe.core import Batch, Noise, Selection, SelectionOperator, Stream
from gradprobe.operators.temperature import at_tau
from gradprobe.statistics.estimates import Estimate, batch_mean
from gradprobe.training.memory import Limit
from gradprobe.training.scorer_trainer import Denoised, Shard, limit_of
from gradprobe.training.workers import groups_of, over_groups
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.task import Captioning
from gradprobe.vlm.training.presets import Settings


@dataclass(frozen=True)
class Validator:
    """Mean caption losses on fixed held-out examples with fixed noise (draw 0; training has others).

    Attributes:
        task: Model, scorer, denoiser and data.
        operator: Operator that is trained through.
        budget: Tokens kept of N.
        settings: Settings of the training: number of examples, seed, last temperature.
        name: The operator's name in error messages.
        rows: Images that the model reads at a time.
        workers: Threads.
        shard: The part of this process; None: all.
        limit: Images at a time, where memory was full.
    """

    task: Captioning
    operator: SelectionOperator
    budget: Budget
    settings: Settings
    name: str
    rows: int
    workers: int
    shard: Shard | None = None
    limit: Limit = field(default_factory=Limit, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", limit_of(self.shard))

    @property
    def examples(self) -> int:
        """Number of examples."""
        return min(self.settings.validation, self.task.source.size)

    def training(self) -> float:
        """Return the loss through the operator at its last temperature, denoiser included."""
        operator: Any = self.operator
        if self.settings.tau_start is not None and self.settings.tau_end is not None:
            operator = at_tau(operator, self.settings.tau_end)
        if self.task.denoiser is not None:
            operator = Denoised(operator, self.task.denoiser)

        def select(batch: Batch, k: int) -> Selection:
            patches = batch.tokens.patches
            return core.apply(operator, patches, self.task.scorer(patches), k, self._noise(batch), self.name)

        return self._losses(select)[0]

    def deployed(self) -> float:
        """Return the loss with the K tokens that the scorer ranks first."""
        return self._losses(self._ranked_first)[0]

    def unpruned(self) -> float:
        """Return the loss with all tokens."""
        return self._losses(lambda b, k: Selection(b.tokens.patches, torch.ones_like(b.tokens.patches[..., 0])))[0]

    def against_random(self) -> tuple[float, Estimate]:
        """Return the loss with K random tokens, and its difference to that with the K ranked first.

        The interval of the difference is Student's over the held-out examples, paired.
        """
        mean, random = self._losses(self._at_random)
        return mean, batch_mean((random - self._losses(self._ranked_first)[1]).numpy()).estimate()

    def _ranked_first(self, batch: Batch, k: int) -> Selection:
        return core.hard_topk(batch.tokens.patches, self.task.scorer(batch.tokens.patches), k)

    def _at_random(self, batch: Batch, k: int) -> Selection:
        patches = batch.tokens.patches
        scores = self._noise(batch).stream(Stream.VALIDATION).uniform((patches.shape[1],), like=patches)
        return core.hard_topk(patches, scores, k)

    def _noise(self, batch: Batch) -> Noise:
        return Noise(self.settings.seed, batch.ids, generator=self.task.generator)

    def _losses(self, select: Callable[[Batch, int], Selection]) -> tuple[float, Tensor]:
        """Return the mean loss, and the loss of each example in the order of reading, ``(examples,)`` on the CPU."""
        size, seed = self.settings.batch_size, self.settings.seed
        total, done = 0.0, 0
        each = torch.zeros(self.examples, dtype=torch.float64)
        parts: list[list[tuple[Tensor, Tensor]]] = []  # of each batch: places of examples, and their losses

        def work(item: tuple[Tensor, Batch]) -> Tensor:
            group = item[1]
            with torch.no_grad():  # gradients are off in the thread that says so, not in others
                k = self.budget.of(group.tokens.patches.shape[1])
                return self.task.losses(select(group, k), group).double()

        while done < self.examples:
            examples = self.task.source.probe(done, min(size, self.examples - done), seed)
            groups = groups_of(self.task.batch_of(examples), self.rows)
            places = torch.arange(done, done + len(examples)).split([len(group.ids) for group in groups])
            items = list(zip(places, groups, strict=True))
            items, counted = (items, len(items)) if self.shard is None else self.shard.part(items)
            results = [(where, losses) for (where, _), losses in over_groups(work, items, self.workers, self.limit)]
            parts.append(results[:counted] if self.shard is not None and self.shard.lockstep else results)
            done += len(examples)
        for part in parts:  # a GPU is not waited for before it has them all
            total += sum(float(losses.sum()) for _, losses in part)
            for where, losses in part:
                each[where] = losses.cpu()
        if self.shard is not None:
            device = next(self.task.scorer.parameters()).device
            local = [torch.tensor([total], dtype=torch.float64, device=device), each.to(device)]
            summed, each = self.shard.all_reduce(local)
            total = float(summed)
        return total / done, each.cpu()

"""The losses of a pruner in training on a fixed set of held-out captions."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from gradprobe import core
from gradprobe.core import Batch, Noise, Selection, SelectionOperator, Stream
from gradprobe.operators.temperature import at_tau
from gradprobe.statistics.estimates import Estimate, batch_mean
from gradprobe.training.train import Denoised, Share
from gradprobe.training.workers import groups_of, in_threads, workers_for
from gradprobe.vlm.deploy import Budget
from gradprobe.vlm.task import Captioning
from gradprobe.vlm.training.presets import Settings


@dataclass(frozen=True)
class Judge:
    """Mean caption losses on the same held-out examples each time, with the same noise (draw 0; training has others).

    Attributes:
        task: model, scorer, denoiser and data.
        operator: what is trained through.
        budget: tokens kept of N.
        settings: how many examples, seed, the last temperature.
        name: what errors call the operator.
        rows: images that the model reads at a time.
        share: the part of this process; None: all.
    """

    task: Captioning
    operator: SelectionOperator
    budget: Budget
    settings: Settings
    name: str
    rows: int
    share: Share | None = None

    @property
    def examples(self) -> int:
        """How many examples it judges by."""
        return min(self.settings.validation, self.task.source.size)

    def training(self) -> float:
        """Through the operator at its last temperature, denoiser included."""
        operator: Any = self.operator
        if self.settings.tau_start is not None and self.settings.tau_end is not None:
            operator = at_tau(operator, self.settings.tau_end)
        if self.task.denoiser is not None:
            operator = Denoised(operator, self.task.denoiser)

        def select(batch: Batch, k: int) -> Selection:
            patches = batch.tokens.patches
            return core.apply(operator, patches, self.task.scorer(patches), k, self._noise(batch), self.name)

        return self._each(select)[0]

    def deployed(self) -> float:
        """Of the K tokens that the scorer ranks first."""
        return self._each(self._ranked_first)[0]

    def unpruned(self) -> float:
        """Of all tokens."""
        return self._each(lambda b, k: Selection(b.tokens.patches, torch.ones_like(b.tokens.patches[..., 0])))[0]

    def against_random(self) -> tuple[float, Estimate]:
        """Return the loss with K random tokens, and by how much it is above that with the K ranked first.

        The interval of the difference is Student's over the held-out examples, which both read.
        """
        mean, random = self._each(self._at_random)
        return mean, batch_mean((random - self._each(self._ranked_first)[1]).numpy()).estimate()

    def _ranked_first(self, batch: Batch, k: int) -> Selection:
        return core.hard_topk(batch.tokens.patches, self.task.scorer(batch.tokens.patches), k)

    def _at_random(self, batch: Batch, k: int) -> Selection:
        patches = batch.tokens.patches
        scores = self._noise(batch).stream(Stream.VALIDATION).uniform((patches.shape[1],), like=patches)
        return core.hard_topk(patches, scores, k)

    def _noise(self, batch: Batch) -> Noise:
        return Noise(self.settings.seed, batch.ids)

    def _each(self, select: Callable[[Batch, int], Selection]) -> tuple[float, Tensor]:
        """The mean loss, and that of each example in the order in which they are read, ``(examples,)`` on the CPU."""
        size, seed = self.settings.batch_size, self.settings.seed
        total, done = 0.0, 0
        each = torch.zeros(self.examples, dtype=torch.float64)
        rank, count = (0, 1) if self.share is None else (self.share.rank, self.share.count)

        def work(group: Batch) -> Tensor:
            with torch.no_grad():  # gradients are off in the thread that says so, not in others
                k = self.budget.of(group.tokens.patches.shape[1])
                return self.task.losses(select(group, k), group).double()

        while done < self.examples:
            examples = self.task.source.probe(done, min(size, self.examples - done), seed)
            groups = groups_of(self.task.batch_of(examples), self.rows)
            starts = list(accumulate((len(group.ids) for group in groups), initial=done))
            found = list(in_threads(work, groups[rank::count], workers_for(self.task)))
            total += sum(float(losses.sum()) for losses in found)
            for start, losses in zip(starts[:-1][rank::count], found, strict=True):
                each[start : start + len(losses)] = losses.cpu()
            done += len(examples)
        if self.share is not None:
            device = next(self.task.scorer.parameters()).device
            summed, each = self.share.add([torch.tensor([total], dtype=torch.float64, device=device), each.to(device)])
            total = float(summed)
        return total / done, each.cpu()

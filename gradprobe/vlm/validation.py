"""The losses of a pruner in training on a fixed set of held-out captions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gradprobe import core
from gradprobe.core import Batch, Noise, Selection, SelectionOperator
from gradprobe.train import Denoised, Share, at_tau
from gradprobe.vlm.deploy import Budget
from gradprobe.vlm.presets import Settings
from gradprobe.vlm.task import Captioning
from gradprobe.workers import groups_of, in_threads, workers_for

_RANDOM = 7  # a stream of its own: a relaxation has 0, a throttle 1


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

        return self._mean(select)

    def deployed(self) -> float:
        """Of the K tokens that the scorer ranks first."""
        return self._mean(lambda b, k: core.deployed(b.tokens.patches, self.task.scorer(b.tokens.patches), k))

    def random(self) -> float:
        """Of K tokens at random."""

        def select(batch: Batch, k: int) -> Selection:
            patches = batch.tokens.patches
            scores = self._noise(batch).stream(_RANDOM).uniform((patches.shape[1],), like=patches)
            return core.deployed(patches, scores, k)

        return self._mean(select)

    def unpruned(self) -> float:
        """Of all tokens."""
        return self._mean(lambda b, k: Selection(b.tokens.patches, torch.ones_like(b.tokens.patches[..., 0])))

    def _noise(self, batch: Batch) -> Noise:
        return Noise(self.settings.seed, batch.ids)

    def _mean(self, select: Callable[[Batch, int], Selection]) -> float:
        size, seed = self.settings.batch_size, self.settings.seed
        total, done = 0.0, 0
        rank, count = (0, 1) if self.share is None else (self.share.rank, self.share.count)

        def work(group: Batch) -> float:
            with torch.no_grad():  # gradients are off in the thread that says so, not in others
                k = self.budget.of(group.tokens.patches.shape[1])
                return float(self.task.losses(select(group, k), group).double().sum())

        while done < self.examples:
            examples = self.task.source.probe(done, min(size, self.examples - done), seed)
            groups = groups_of(self.task.batch_of(examples), self.rows)
            total += sum(in_threads(work, groups[rank::count], workers_for(self.task)))
            done += len(examples)
        if self.share is not None:
            device = next(self.task.scorer.parameters()).device
            (summed,) = self.share.add([torch.tensor([total], dtype=torch.float64, device=device)])
            total = float(summed)
        return total / done

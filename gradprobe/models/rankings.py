"""Selection without training: plans of selectors on the batches of a task."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, Selection, Stream, Task, hard_topk
from gradprobe.errors import UsageError
from gradprobe.operators import registry
from gradprobe.selectors.asking import keep, scores_of
from gradprobe.selectors.plan import Counts, Plan, Positions, plan_of
from gradprobe.view import Drop, Kept, Unavailable, View

USUAL = ("random", "norm", "class-attention", "mean-attention", "divprune", "truth")  # unless others are named


@dataclass(frozen=True, eq=False)
class Chosen:
    """Tokens chosen for the images of a batch.

    Attributes:
        selection: Input of the rest of the model.
        scores: Scores of all tokens, ``(B, N)``; of a selector without scores 1 for a token that is kept, else 0. None
            where a language model chooses later.
    """

    selection: Selection
    scores: Tensor | None


@dataclass(frozen=True)
class Selecting:
    """A plan on a task: choice of the tokens that the model reads, and the model that reads them.

    Attributes:
        task: Frozen model and data; its scorer plays no part.
        plan: Selectors outside and inside the language model.
        counts: Tokens at each layer.
        seed: Seed of the selectors' noise.
    """

    task: Task
    plan: Plan
    counts: Counts
    seed: int

    @classmethod
    def of(
        cls, task: Task, plan: "str | Plan", k: int, seed: int = 0, positions: Positions | None = None
    ) -> "Selecting":
        """Return a plan on a task with K tokens left behind its last stage.

        Args:
            task: Frozen model and data.
            plan: Selectors.
            k: K.
            seed: Seed of their noise.
            positions: Position ids of kept tokens; None: the plan's.

        Raises:
            UsageError: No such selector, or a plan that this model and K do not allow.
        """
        made = plan_of(plan, positions)
        return cls(task, made, made.counts(task.n_tokens, task.layers, k=k), seed)

    @property
    def reader(self) -> Task:
        """The task that reads what is chosen."""
        if not self.plan.inside and self.plan.positions == "keep":
            return self.task
        left = dict(self.counts.inside)
        drops = [Drop(layer, stage.selector, left[layer]) for layer, stage in zip(left, self.plan.inside, strict=True)]
        return self.task.reading(drops, self.plan.positions, self.seed)

    def choose(self, batch: Batch) -> Chosen:
        """Choose the tokens that enter the rest of the model.

        Raises:
            Unavailable: The selector reads something that the task does not have.
        """
        patches, stage = batch.tokens.patches, self.plan.outside
        if stage is None:
            everything = torch.ones(patches.shape[:2], dtype=patches.dtype, device=patches.device)
            return Chosen(Selection(patches, everything), None)
        selector: Any = stage.selector
        try:
            with torch.no_grad():
                view = self.view(batch)
                if (scores := scores_of(selector, view)) is not None:
                    scores = scores.to(patches.device)
                    return Chosen(hard_topk(patches, scores, self.counts.outside), None if self.plan.inside else scores)
                selection = selection_of(keep(selector, view, self.counts.outside), patches)
        except Unavailable as error:
            raise Unavailable(f"{stage.name} cannot choose here: {error}") from None
        return Chosen(selection, None if self.plan.inside else selection.weights)

    def view(self, batch: Batch) -> View:
        """Return the images as selectors see them."""
        return self.task.view(batch, Noise(self.seed, batch.ids, generator=self.task.generator).stream(Stream.RANKING))

    def fault(self, one: Batch) -> str | None:
        """Return the reason why the plan cannot be used, found on one image; None if it can."""
        try:
            chosen = self.choose(one)
            if self.reader is not self.task:
                with self.task.running(), torch.no_grad():
                    self.reader.losses(chosen.selection, one)
        except (Unavailable, UsageError) as error:
            return str(error)
        return None


def selection_of(kept: Kept, patches: Tensor) -> Selection:
    """Return the selection of the tokens that a selector keeps.

    Args:
        kept: Their numbers, and values that stand there instead.
        patches: All tokens, ``(B, N, D)``.
    """
    index = kept.index.to(patches.device)
    tokens = kept.tokens
    if tokens is None:
        tokens = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
    weights = torch.zeros(patches.shape[:2], dtype=patches.dtype, device=patches.device).scatter(1, index, 1.0)
    return Selection(tokens.to(patches), weights, index=index)


def fault_of(task: Task, plan: "str | Plan", k: int, one: Batch, positions: Positions | None = None) -> str | None:
    """Return the reason why a plan cannot be used on a task, found on one image; None if it can.

    Raises:
        GradprobeError: It is not about this task: no such selector, or its code failed.
    """
    made = plan_of(plan, positions)
    try:
        return Selecting.of(task, made, k).fault(one)
    except UsageError as error:
        return str(error)


def code_of_plan(plan: Plan) -> str | None:
    """Return a hash of the third parties' code in a plan; None if all its selectors are built in."""
    codes = [code for stage in plan.stages if (code := registry.code_of(stage.selector)) is not None]
    return "+".join(dict.fromkeys(codes)) or None

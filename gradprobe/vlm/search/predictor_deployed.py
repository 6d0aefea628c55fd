"""Schedules of single images as they are deployed: tokens are really dropped, in groups of images with equal counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Batch, joined
from gradprobe.view import Selector
from gradprobe.vlm.search.deployed import Deployed, outcomes
from gradprobe.vlm.search.predictor import Counts
from gradprobe.vlm.search.spending import Spending
from gradprobe.vlm.task import Captioning

GROUP = 32  # images in one pass


@dataclass(frozen=True)
class Schedules:
    """Schedules of held-out images at a budget.

    Attributes:
        budget: Share of FLOPs that was asked for, which none of them exceeds.
        counts: Of each image, the visual tokens that each layer reads.
        deployed: Outcome on these images.
    """

    budget: float
    counts: tuple[Counts, ...]
    deployed: Deployed

    def row(self, spending: Spending) -> dict[str, Any]:
        """Return means and spreads over images, ready for JSON."""
        counts = torch.tensor(self.counts, dtype=torch.float64)
        shares = [float(spending.share(each)) for each in self.counts]
        layers = {
            "counts_spread": counts.std(0, correction=0).tolist(),
            "counts_least": [int(each) for each in counts.amin(0)],
            "counts_most": [int(each) for each in counts.amax(0)],
        }
        return {
            "share": sum(shares) / len(shares), "share_most": max(shares), "average": float(counts.mean()),
            "counts": counts.mean(0).tolist(), **layers, "different": len(set(self.counts)),
        }  # fmt: skip


def each_deployed(
    task: Captioning,
    selector: Selector,
    counts: Sequence[Counts],
    groups: Sequence[Batch],
    seed: int,
    answers: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the caption loss of each image at its own schedule, and for each whether its answer is right.

    Args:
        task: Frozen model and data.
        selector: It chooses the tokens.
        counts: A schedule for each image.
        groups: The images, B in all.
        seed: Of a random selector.
        answers: False to leave the questions out.

    Returns:
        ``(B,)`` each; the second is None where the data have no questions, or they were not asked.

    Raises:
        GradprobeError: The loss is no finite number.
    """
    batch = groups[0] if len(groups) == 1 else joined(groups)
    losses, right = torch.zeros(len(counts), dtype=torch.float64), torch.zeros(len(counts), dtype=torch.bool)
    for schedule in dict.fromkeys(counts):
        which = torch.tensor([i for i, each in enumerate(counts) if each == schedule])
        parts = [batch.subset(some) for some in which.split(GROUP)]
        loss, correct = outcomes(task, selector, schedule, parts, seed, answers)
        losses[which] = loss.cpu()
        answers = answers and correct is not None
        if correct is not None:
            right[which] = correct.cpu()
    return losses, right if answers else None


def schedules_deployed(
    task: Captioning, selector: Selector, budget: float, counts: Sequence[Counts], groups: Sequence[Batch], seed: int
) -> Schedules:
    """Measure schedules of single images, questions included; as of `each_deployed`."""
    losses, right = each_deployed(task, selector, counts, groups, seed)
    outcome = Deployed(float(losses.mean()), None if right is None else int(right.sum()), len(losses))
    return Schedules(budget, tuple(counts), outcome)

"""Schedules as they are deployed: tokens are really dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gradprobe.core import Batch, Selection
from gradprobe.errors import GradprobeError
from gradprobe.selectors.plan import Plan, Stage
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.proportions import wilson
from gradprobe.view import Drop, Selector
from gradprobe.vlm.task import Captioning


@dataclass(frozen=True)
class Deployed:
    """Outcome of a schedule on held-out images.

    Attributes:
        loss: Caption loss, mean over images.
        right: Number of right answers; None where the data have no questions, or they were not asked.
        images: Their number.
    """

    loss: float
    right: int | None
    images: int

    @property
    def accuracy(self) -> Estimate | None:
        """Share of right answers with Wilson's 95 % interval; None without questions."""
        return None if self.right is None else wilson(self.right, self.images)


def plan_of_counts(selector: Selector, counts: Sequence[int]) -> Plan:
    """Return a plan with a stage at each layer that reads fewer tokens than the one before.

    Example:
        >>> from gradprobe.selectors.fastv import FastV
        >>> plan_of_counts(FastV(), [100, 50, 50, 3]).label
        'fastv@1,3:keep=50,3'
    """
    falls = [(layer, after) for layer, (before, after) in enumerate(pairwise(counts), start=1) if after < before]
    return Plan(tuple(Stage(selector, layer, k) for layer, k in falls or [(1, counts[0])]))


def deployed(
    task: Captioning,
    selector: Selector,
    counts: Sequence[int],
    groups: Sequence[Batch],
    seed: int,
    answers: bool = True,
) -> Deployed:
    """Measure a schedule on held-out images.

    Args:
        task: Frozen model and data.
        selector: It chooses the tokens.
        counts: Visual tokens that each layer reads; all in the first.
        groups: The images.
        seed: Of a random selector.
        answers: False to leave the questions out, which take a second pass.

    Raises:
        GradprobeError: The loss is no finite number.
    """
    each, right = outcomes(task, selector, counts, groups, seed, answers)
    return Deployed(float(each.mean()), None if right is None else int(right.sum()), len(each))


def outcomes(
    task: Captioning,
    selector: Selector,
    counts: Sequence[int],
    groups: Sequence[Batch],
    seed: int,
    answers: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the caption loss of each held-out image at a schedule, and for each whether its answer is right.

    Args:
        task: As of `deployed`, like the others.
        selector: It chooses the tokens.
        counts: Visual tokens that each layer reads.
        groups: B images.
        seed: Of a random selector.
        answers: False to leave the questions out.

    Returns:
        ``(B,)`` each; the second is None where the data have no questions, or they were not asked.

    Raises:
        GradprobeError: The loss is no finite number.
    """
    stages = plan_of_counts(selector, counts).stages
    drops = [Drop(stage.layer or 0, selector, int(stage.keep or 0)) for stage in stages]
    reader = task.reading(drops, "keep", seed)
    losses, right, asked = [], [], answers
    with torch.no_grad(), task.running():
        for group in groups:
            patches = group.tokens.patches
            everything = Selection(patches, patches.new_ones(patches.shape[:2]))
            losses.append(reader.losses(everything, group).double())
            asked = asked and group.target.question is not None
            if asked:
                right.append(reader.ranks(everything, group) == 0)
    each = torch.cat(losses)
    if not bool(each.isfinite().all()):
        number = int((~each.isfinite()).sum())
        raise GradprobeError(
            f"the caption loss of {number} of {len(each)} held-out images is no finite number with the counts "
            f"{', '.join(map(str, counts))}; open the model with --dtype float32"
        )
    return each, torch.cat(right) if asked else None

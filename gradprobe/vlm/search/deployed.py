"""Schedules as they are deployed: tokens are really dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

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
    stages = plan_of_counts(selector, counts).stages
    drops = [Drop(stage.layer or 0, selector, int(stage.keep or 0)) for stage in stages]
    reader = task.reading(drops, "keep", seed)
    losses, right, asked = [], 0, answers
    with torch.no_grad(), task.running():
        for group in groups:
            patches = group.tokens.patches
            everything = Selection(patches, patches.new_ones(patches.shape[:2]))
            losses.append(reader.losses(everything, group).double())
            asked = asked and group.target.question is not None
            if asked:
                right += int((reader.ranks(everything, group) == 0).sum())
    each = torch.cat(losses)
    if not bool(each.isfinite().all()):
        number = int((~each.isfinite()).sum())
        raise GradprobeError(
            f"the caption loss of {number} of {len(each)} held-out images is no finite number with the counts "
            f"{', '.join(map(str, counts))}; open the model with --dtype float32"
        )
    return Deployed(float(each.mean()), right if asked else None, len(each))

"""Schedules at which the gradient is probed, in the numbers of a kernel.

Shapes: L layers, C = L - 1 counts that can move, P numbers of the kernel.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.selectors.plan import plan_of
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.kernels import Kernel, Steps
from gradprobe.vlm.search.search import STEEPNESS, start

Array = NDArray[np.float64]
START = "start"
BELOW = 0.25  # tokens by which equal counts may fall from the second to the last layer, since no sigmoid is 1
ASIDE = 0.02  # layers by which the place of a step may miss the middle between the first two or the last two


@dataclass(frozen=True, eq=False)
class Point:
    """Numbers of a kernel.

    Attributes:
        label: ``start``, or the plan or numbers as they were typed.
        numbers: ``(P,)``, in double precision.
        steepness: Of a step: that of the search's beginning at the start, of its end elsewhere.
    """

    label: str
    numbers: Tensor
    steepness: float

    def counts(self, asked: Search, numbers: Tensor | None = None) -> Tensor:
        """Return the number of tokens that each layer reads, ``(L,)``, not rounded.

        Args:
            asked: Kernel and model.
            numbers: Others at the same steepness; None: those of the point.
        """
        own = self.numbers if numbers is None else numbers
        spending = asked.spending
        return asked.kernel.shares(own, spending.layers, self.steepness) * spending.tokens

    def jacobian(self, asked: Search) -> Array:
        """Return the derivatives of the counts, ``(C, P)``."""
        return torch.autograd.functional.jacobian(lambda own: self.counts(asked, own)[1:], self.numbers).numpy()

    def normal(self, asked: Search) -> Array:
        """Return the gradient of the share of FLOPs in the numbers, ``(P,)``: the direction of the multiplier."""
        numbers = self.numbers.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(asked.spending.share(self.counts(asked, numbers)), numbers)
        return gradient.numpy()


def point_of(asked: Search, budget: float, text: str) -> Point:
    """Return the point of a text.

    Args:
        asked: Model, selector and kernel.
        budget: That a start spends.
        text: ``start``; a plan, ``.json``; or the numbers of the kernel, separated by commas.

    Raises:
        UsageError: None of these, a plan that the kernel does not have, or another number of numbers.
    """
    begun = start(asked, budget)
    if text == START:
        return Point(text, begun, STEEPNESS[0])
    if text.endswith(".json"):
        counts = _counts_of_plan(asked, text)
        return Point(text, numbers_of(asked.kernel, counts, text), STEEPNESS[1])
    try:
        values = torch.tensor([float(each) for each in text.split(",")], dtype=torch.float64)
    except ValueError:
        values = begun[:0]
    if len(values) != len(begun) or not bool(values.isfinite().all()):
        example = ",".join(f"{value:.2f}" for value in begun.tolist())
        raise UsageError(
            f"--at {text} is not possible; give start, a plan.json that vlm search wrote, or the {len(begun)} numbers "
            f"of --kernel {asked.kernel.label}, such as --at {example}"
        )
    return Point(text, values, STEEPNESS[1])


def numbers_of(kernel: Kernel, counts: Sequence[int], name: str) -> Tensor:
    """Return numbers of a kernel that stand for whole counts, ``(P,)``.

    A count that equals the one before is a little less in the numbers, and steps are as smooth as the search's last
    ones, so that a step's counts are met up to 0.7 % of its fall.

    Args:
        kernel: ``free`` or one of steps.
        counts: Of each layer, the first is N.
        name: Of the plan, for the error message.

    Raises:
        UsageError: The counts fall at more layers than the kernel has steps.

    Example:
        >>> from gradprobe.vlm.search.kernels import Free
        >>> numbers = numbers_of(Free(), [100, 50, 50, 1], "plan.json")
        >>> (100 * Free().shares(numbers, 4, 10)).round(decimals=2).tolist()
        [100.0, 50.0, 49.97, 1.0]
    """
    most = 1 - BELOW / (counts[0] * len(counts))
    if isinstance(kernel, Steps):
        return _numbers_of_steps(kernel, counts, most, name)
    before, ratios = float(counts[0]), []
    for count in counts[1:]:
        ratios.append(min(count / before, most))
        before *= ratios[-1]
    return torch.tensor(ratios, dtype=torch.float64).logit()


def whole_counts(counts: Array, tokens: int) -> tuple[int, ...]:
    """Return counts as they are deployed: whole, from 1 to N, and none above the layer before.

    Example:
        >>> whole_counts(np.array([100.0, 41.6, 43.2, 0.3]), 100)
        (100, 42, 42, 1)
    """
    return tuple(int(each) for each in np.minimum.accumulate(np.clip(np.round(counts), 1, tokens)))


def _numbers_of_steps(kernel: Steps, counts: Sequence[int], most: float, name: str) -> Tensor:
    falls = [(layer, after) for layer, (before, after) in enumerate(pairwise(counts), start=1) if after < before]
    if len(falls) > kernel.m:
        raise UsageError(
            f"{name} drops tokens at {len(falls)} layers and --kernel {kernel.label} has {kernel.m}; give the kernel "
            "that found it, or --kernel free"
        )
    layers, tokens = len(counts), counts[0]
    falls += [falls[-1] if falls else (layers // 2, tokens)] * (kernel.m - len(falls))
    span = max(layers - 2, 1)
    places = [min(max((layer - 1) / span, ASIDE / span), 1 - ASIDE / span) for layer, _ in falls]
    shares = [1.0, *(after / tokens for _, after in falls)]
    ratios = [min(after / before, most) for before, after in pairwise(shares)]
    return torch.tensor([*places, *ratios], dtype=torch.float64).logit()


def _counts_of_plan(asked: Search, text: str) -> tuple[int, ...]:
    plan, spending = plan_of(text), asked.spending
    counts = plan.counts(spending.tokens, spending.layers).layers
    if plan.outside is not None or counts[0] != spending.tokens:
        raise UsageError(f"{text} drops tokens before layer 1, and a search never does; give a plan of vlm search")
    others = [stage.selector for stage in plan.stages if stage.selector != asked.selector]
    if others:
        label = re.sub(r"@.*", "", plan.label)
        raise UsageError(f"{text} is a plan of {label}, and another selector is probed; give --select {label}")
    return tuple(counts)

"""Kernels: schedules of shares over the layers of a language model, from a few numbers that a gradient can move.

Shapes: L layers. Shares never rise from a layer to the next, and layer 0 reads all tokens: a selector inside the
language model reads the attention of a layer before.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Protocol

import torch
from torch import Tensor

from gradprobe.errors import UsageError, nearest

EDGE = 0.02  # relative places and shares begin within this and 1 less this, where a sigmoid still has a slope
Schedule = tuple[float, ...]  # a share for each layer


class Kernel(Protocol):
    """Family of schedules, in numbers without bounds."""

    @property
    def label(self) -> str:
        """Name that can be typed back."""
        ...

    def check(self, layers: int) -> None:
        """Refuse a model with too few layers."""
        ...

    def start(self, layers: int, last: float, place: float) -> Tensor:
        """Return numbers to begin with.

        Args:
            layers: L.
            last: Share of the last layer, in (0, 1).
            place: Relative place of the middle of the fall, in (0, 1); a kernel without places ignores it.
        """
        ...

    def shares(self, numbers: Tensor, layers: int, steepness: float) -> Tensor:
        """Return the share of tokens that each layer reads, ``(L,)``, differentiable.

        Args:
            numbers: As of `start`.
            layers: L.
            steepness: Of a step, a layer; a kernel without places ignores it.
        """
        ...

    def schedules(self, numbers: Tensor, layers: int) -> list[Schedule]:
        """Return the schedules that the numbers stand for once places are whole layers, the nearest first."""
        ...


@dataclass(frozen=True)
class Steps:
    """Steps down: before place ``k_1`` all tokens, then a share ``r_1``, from ``k_2`` on ``r_2 <= r_1``, and so on.

    ``r_l = 1 - sum_j (r_{j-1} - r_j) sigmoid(steepness (l - k_j))`` with ``r_0 = 1``. Of its 2 m numbers the first m
    are places, ``k_j = 1/2 + (L - 2) sigmoid(a_j)``, so that a step lies at a layer 1..L-1; the others are shares, each
    ``r_j = r_{j-1} sigmoid(b_j)``.

    Source: VisPCO's kernel is the one step, of steepness 10; it describes several and publishes none.

    Attributes:
        m: Number of steps.

    Example:
        >>> numbers = torch.tensor([0.0, 0.0])  # half-way, half of the tokens
        >>> Steps(1).shares(numbers, 5, 10).round(decimals=2).tolist(), Steps(1).schedules(numbers, 5)[0]
        ([1.0, 1.0, 0.75, 0.5, 0.5], (1.0, 1.0, 1.0, 0.5, 0.5))
    """

    m: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.m <= 3:
            raise UsageError(f"steps:m={self.m} is not possible; give steps:m=2 or steps:m=3, or step for one")

    @property
    def label(self) -> str:
        """Name that can be typed back."""
        return "step" if self.m == 1 else f"steps:m={self.m}"

    def check(self, layers: int) -> None:
        """Refuse a model in which there is no layer for each step.

        Raises:
            UsageError: There are too few.
        """
        if self.m > layers - 1:
            raise UsageError(_too_few(self.label, self.m, layers))

    def start(self, layers: int, last: float, place: float) -> Tensor:
        """Return steps at equal distances around a place, with equal ratios down to the last share."""
        places = [min(max(2 * place * (j + 1) / (self.m + 1), EDGE), 1 - EDGE) for j in range(self.m)]
        ratio = last ** (1 / self.m)
        return torch.tensor([*places, *[ratio] * self.m], dtype=torch.float64).logit()

    def shares(self, numbers: Tensor, layers: int, steepness: float) -> Tensor:
        """Return the share of tokens that each layer reads, ``(L,)``."""
        places, shares = self._split(numbers, layers)
        falls = torch.cat([shares.new_ones(1), shares[:-1]]) - shares
        after = torch.arange(layers, dtype=numbers.dtype, device=numbers.device)[:, None] - places
        fallen = torch.sigmoid(steepness * after) * falls
        return torch.cat([fallen.new_ones(1), 1 - fallen[1:].sum(1)])

    def schedules(self, numbers: Tensor, layers: int) -> list[Schedule]:
        """Return the steps at the layers around their places."""
        places, shares = (each.tolist() for each in self._split(numbers.detach(), layers))
        order = sorted(range(self.m), key=places.__getitem__)  # a later step may have the earlier place
        choices = []
        for place in (places[step] for step in order):
            nearer = min(max(int(place + 1), 1), layers - 1)  # a step at 2.5 lies between layers 2 and 3
            other = min(max(nearer + (1 if place + 0.5 > nearer else -1), 1), layers - 1)
            choices.append((nearer, other))
        made = []
        for chosen in product(*choices):
            ascending = [min(chosen[i:]) for i in range(self.m)]
            firsts = dict(zip(order, ascending, strict=True))
            made.append(_stairs([firsts[step] for step in range(self.m)], shares, layers))
        return list(dict.fromkeys(made))

    def _split(self, numbers: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """Return the places and shares of the steps, ``(m,)`` each."""
        places = 0.5 + (layers - 2) * torch.sigmoid(numbers[: self.m])
        return places, torch.sigmoid(numbers[self.m :]).cumprod(0)


@dataclass(frozen=True)
class Free:
    """A share for each layer but the first, ``r_l = r_{l-1} sigmoid(a_l)``: L - 1 numbers.

    Example:
        >>> Free().shares(torch.zeros(2), 3, 10).tolist()
        [1.0, 0.5, 0.25]
    """

    @property
    def label(self) -> str:
        """Name that can be typed back."""
        return "free"

    def check(self, layers: int) -> None:
        """Refuse a model of one layer.

        Raises:
            UsageError: It has no layer to spare.
        """
        if layers < 2:
            raise UsageError(_too_few(self.label, 1, layers))

    def start(self, layers: int, last: float, place: float) -> Tensor:
        """Return equal ratios down to the last share."""
        return torch.full((layers - 1,), last ** (1 / (layers - 1)), dtype=torch.float64).logit()

    def shares(self, numbers: Tensor, layers: int, steepness: float) -> Tensor:
        """Return the share of tokens that each layer reads, ``(L,)``."""
        return torch.cat([numbers.new_ones(1), torch.sigmoid(numbers).cumprod(0)])

    def schedules(self, numbers: Tensor, layers: int) -> list[Schedule]:
        """Return the shares as they are."""
        return [tuple(self.shares(numbers.detach(), layers, 0).tolist())]


def kernel_of(text: str) -> Kernel:
    """Return the kernel of a text: ``step``, ``steps:m=2``, ``steps:m=3`` or ``free``.

    Raises:
        UsageError: There is no such kernel.

    Example:
        >>> kernel_of("steps:m=3")
        Steps(m=3)
    """
    if text in ("step", "free"):
        return Steps() if text == "step" else Free()
    match = re.fullmatch(r"steps(?::m=(\d{1,3}))?", text)
    if not match:
        known = nearest(text, ["step", "steps:m=2", "steps:m=3", "free"])
        raise UsageError(f"--kernel {text} is not possible; {known}")
    return Steps(int(match[1] or 2))


def _stairs(firsts: Sequence[int], shares: Sequence[float], layers: int) -> Schedule:
    """Return the schedule of steps with these first layers, ``r_l = 1 - sum of (r_{j-1} - r_j) over first_j <= l``."""
    levels = [1.0, *shares]
    falls = [before - after for before, after in pairwise(levels)]
    each = [1.0]
    for layer in range(1, layers):
        passed = [first <= layer for first in firsts]
        done = (*passed, False).index(False)  # steps that are passed with all before them
        early = sum(fall for fall, there in zip(falls[done:], passed[done:], strict=True) if there)
        each.append(min(levels[done] - early, each[-1]))
    return tuple(each)


def _too_few(label: str, steps: int, layers: int) -> str:
    return (
        f"--kernel {label} drops tokens at {steps} {'layer' if steps == 1 else 'layers'} after the first, and this "
        f"language model has {layers} in all; give {'step, or ' if steps > 1 and layers > 1 else ''}a model with more"
    )

"""Places of visual tokens and words in the rows of a batch, and what is left of them.

Shapes: B rows, S positions of the prompt (and of an answer behind it), S' of them left, M visual tokens, T words.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.view import Kept


@dataclass(frozen=True, eq=False)
class Places:
    """Places of tokens in the rows of a batch.

    Attributes:
        visual: Visual tokens, ``(B, M)``.
        words: Words of the prompt, ``(B, T)``; where a row has fewer, any.
        last: The prompt's last token, ``(B, 1)``.
    """

    visual: Tensor
    words: Tensor
    last: Tensor

    def among(self, rank: Tensor) -> "Places":
        """Return the places among the positions that are left, of which ``rank (B, S)`` is the number of each."""
        return Places(*(rank.gather(1, where) for where in (self.visual, self.words, self.last)))

    def to(self, device: torch.device) -> "Places":
        """Return the places on a device."""
        return Places(self.visual.to(device), self.words.to(device), self.last.to(device))


@dataclass(frozen=True, eq=False)
class Prompt:
    """Prompts with their visual tokens and words.

    Attributes:
        slot: ``(B, S)``.
        attended: ``(B, S)``.
        places: Of visual tokens and words.
        real: Mask of the words, ``(B, T)``.
        behind: Mask of the words behind a visual token, ``(B, T)``.
        padded: True where some row has padding.
    """

    slot: Tensor
    attended: Tensor
    places: Places
    real: Tensor
    behind: Tensor
    padded: bool

    @classmethod
    def of(cls, slot: Tensor, attended: Tensor, last: Tensor, total: int) -> "Prompt":
        """Find the words up to ``last``."""
        visual = slot >= 0
        last = last[:, None].to(slot.device)
        words = (slot == -1) & attended & (torch.arange(slot.shape[1], device=slot.device) <= last)
        places = Places(_true(visual, total), _true(words, int(words.sum(1).max())), last)
        behind = visual.cumsum(1).gather(1, places.words) > 0
        real = words.gather(1, places.words)
        return cls(slot, attended, places, real, real & behind, not bool(attended.all()))


@dataclass(frozen=True, eq=False)
class Left:
    """Positions that are left from a layer on.

    Attributes:
        order: Ascending, ``(B, S')``.
        rank: Number of each of the S positions among them ``(B, S)``; of one that is gone, that of the last before it.
        visual: Places of the visual tokens among the S, ``(B, M)``.
        attended: ``(B, S')``.
    """

    order: Tensor
    rank: Tensor
    visual: Tensor
    attended: Tensor

    @classmethod
    def all_of(cls, prompt: Prompt) -> "Left":
        """Return everything."""
        order = torch.arange(prompt.slot.shape[1], device=prompt.slot.device).expand_as(prompt.slot)
        return cls(order, order, prompt.places.visual, prompt.attended)

    def after(self, kept: Kept, attended: Tensor) -> "Left":
        """Return what is left of it once a selector has chosen among its visual tokens."""
        there = torch.zeros_like(attended).scatter(1, self.order, True)
        chosen = self.visual.gather(1, kept.index)
        there = there.scatter(1, self.visual, False).scatter(1, chosen, True)
        order = _true(there, self.order.shape[1] - self.visual.shape[1] + chosen.shape[1])
        return Left(order, there.long().cumsum(1) - 1, chosen, attended.gather(1, order))


def gather_rows(states: Tensor, places: Tensor) -> Tensor:
    """Return the states ``(B, S, ...)`` at places ``(B, n)``, ``(B, n, ...)``; one row of states may stand for all."""
    places = places.to(states.device)
    rows = torch.arange(len(places), device=states.device)[:, None]
    return states.expand(len(places), *states.shape[1:])[rows, places]


def mask_rows(mask: Tensor, places: Tensor) -> Tensor:
    """Return the rows ``(B, 1, n, S)`` of a mask ``(B, 1, S, S)`` at places ``(B, n)``."""
    return gather_rows(mask.transpose(1, 2), places).transpose(1, 2)


def _true(mask: Tensor, count: int) -> Tensor:
    """Return the first places where a mask ``(B, S)`` is true, then others, ``(B, count)``."""
    return (~mask).long().argsort(dim=1, stable=True)[:, :count]

"""Choice of the visual tokens that enter the language model, image by image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Noise, Stream
from gradprobe.selectors.asking import keep, scores_of
from gradprobe.view import Kept, Selector, View, Words
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Prompt, VisionFeatures
from gradprobe.vlm.views import Projector, tower_of, words_of


@dataclass(frozen=True, eq=False)
class Images:
    """Images of a prompt, seen by the vision tower.

    Attributes:
        vlm: The model.
        inputs: As its processor returned them.
        features: Of the images.
        prompt: Rows in which they stand.
        asked: Mask of the positions that selectors may read words at, ``(B, S)``; None: all.
    """

    vlm: VLM
    inputs: Mapping[str, Any]
    features: VisionFeatures
    prompt: Prompt
    asked: Tensor | None = None

    @classmethod
    def of(cls, vlm: VLM, inputs: Mapping[str, Any], attention: bool = False) -> "Images":
        """Run the vision tower once.

        Args:
            vlm: The model.
            inputs: As its processor returns them.
            attention: Record the tower's queries and keys too.
        """
        features = vlm.vision_features(inputs, attention)
        return cls(vlm, inputs, features, vlm.prompt(inputs, features))

    def chosen(self, selector: Selector, budget: Callable[[int], int]) -> list[Kept]:
        """Return the tokens that a selector keeps of each image, ``(K_i,)``; images of one layout are seen together.

        Args:
            selector: It chooses.
            budget: N -> K.
        """
        every = self.features.tokens
        kept = [Kept(torch.empty(0))] * len(every)
        layouts = [(len(tokens), grids) for tokens, grids in zip(every, self._grids(), strict=True)]
        for layout in dict.fromkeys(layouts):
            which = [i for i, each in enumerate(layouts) if each == layout]
            chosen = keep(selector, self._view(which, layout[1]), budget(layout[0]))
            for place, i in enumerate(which):
                values = None if chosen.tokens is None else chosen.tokens[place].to(every[i])
                kept[i] = Kept(chosen.index[place].to(every[i].device), values)
        return kept

    def scores(self, selector: Selector) -> Tensor | None:
        """Return a selector's scores of the tokens of the only image, ``(N,)``; None of one that has none."""
        scores = scores_of(selector, self._view([0], self._grids()[0]))
        return None if scores is None else scores[0]

    def whole(self) -> list[Kept]:
        """Return all tokens of each image."""
        return [Kept(torch.arange(len(tokens), device=tokens.device)) for tokens in self.features.tokens]

    def _grids(self) -> list[tuple[tuple[int, int], ...]]:
        family, config = self.vlm.family, self.vlm.model.config
        return [family.grids(config, each) for each in self.features.inputs]

    def _view(self, which: list[int], grids: tuple[tuple[int, int], ...]) -> View:
        rows = [row for row, counts in enumerate(self.prompt.counts) for _ in counts]
        at = torch.tensor([rows[i] for i in which], device=self.prompt.input_ids.device)

        def words() -> Words:
            text = words_of(self.vlm, self.prompt, self.asked)
            return Words(text.states[at], text.mask[at])

        return View(
            Noise(0, tuple(which)).stream(Stream.RANKING),
            torch.stack([self.features.tokens[i] for i in which]),
            projector=Projector(self.vlm),
            make_tower=partial(tower_of, self.features, which),
            make_words=words,
            grids=grids,
        )


def by_row(prompt: Prompt, kept: list[Kept], tokens: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Return, for each row of a prompt, the values and the numbers of its images' tokens that are kept.

    Args:
        prompt: B rows.
        kept: Of each image.
        tokens: All tokens of each image, ``(N_i, D)``.
    """
    values, numbers, images = [], [], 0
    empty = tokens[0][:0] if tokens else torch.zeros(0, 0)
    for counts in prompt.counts:
        some, which, first = [empty], [torch.zeros(0, dtype=torch.long, device=empty.device)], 0
        for count in counts:
            each = kept[images]
            some.append(tokens[images][each.index] if each.tokens is None else each.tokens)
            which.append(each.index + first)
            first, images = first + count, images + 1
        values.append(torch.cat(some))
        numbers.append(torch.cat(which))
    return values, numbers

"""Training of the embedded vision-language models from scratch, in three stages.

First, side by side: the tower learns from labels to turn each patch into the words of its object, and the language
model learns to caption and to answer from the same words in the place of the patches. The tower is done early: the
language model goes on alone. Then both learn together from pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from gradprobe.data.photos import photos
from gradprobe.data.pictures import GRID, Pictures, objects_of, pictures
from gradprobe.embedded.vlms import SCENES
from gradprobe.training.from_scratch import FIRST_ID, Part, Trainer, check_recipe, fresh
from gradprobe.training.precision import autocast
from gradprobe.vlm.embedded import ID, NOTHING, blank_vlm
from gradprobe.vlm.training.background import Background, OneWord, Texture
from gradprobe.vlm.training.pictures_loss import (
    BLUR,
    CELLS,
    FEW,
    LATER_QUESTIONS,
    QUESTIONS,
    TEXTS,
    label_loss,
    lines,
    targets,
    text_loss,
    truth,
    visual_tokens,
)

LABELS = 0.3  # weight of the labels' loss when both learn together, so that tokens keep describing their own patch
SEED = 7  # first word of the seed of a picture's questions


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on, beside the versions of the libraries.

    Attributes:
        model: Embedded model, which decides its shape and pictures, and the tower's target for patches without a digit.
        apart: Steps of the first stage: tower and language model side by side.
        words: Steps of the second stage: the language model alone.
        together: Steps of the third stage: both on pictures.
        relations_from: Step from which relations are practised; by then the language model can find an object.
        few_from: Step from which half the pictures show all patches of objects but only some of the others, so that the
            language model does not come to need patches that say nothing.
        seed: Seed of the initial weights and of the pictures (ids from ``seed * 10**9`` on).
        tower_batch: Pictures a step for the tower in the first stage.
        batch: Pictures a step for the language model; twice as many in the third stage.
        rate: Learning rate of AdamW; the third stage begins at half of it and falls to 0 by a cosine.
        warmup: Steps of warm-up at the start of the first and the third stage.
        decay: Weight decay.
        save_every: Steps between checkpoints.
    """

    model: str = SCENES
    apart: int = 600
    words: int = 2500
    together: int = 1000
    relations_from: int = 1800
    few_from: int = 3600
    seed: int = 0
    tower_batch: int = 64
    batch: int = 32
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    save_every: int = 100

    def __post_init__(self) -> None:
        check_recipe(self, "apart", "words", "together", "tower_batch", "batch", "save_every")

    @property
    def steps(self) -> int:
        """Number of steps of all three stages."""
        return self.apart + self.words + self.together

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.apart:
            return self.rate * min(1.0, (step + 1) / self.warmup)
        step -= self.apart + self.words
        if step < 0:
            return self.rate
        falling = 0.5 * (1 + math.cos(math.pi * step / self.together))
        return 0.5 * self.rate * falling * min(1.0, (step + 1) / self.warmup)


def recipe_of(model: str, seed: int) -> Recipe:
    """Return the recipe of an embedded model."""
    if model == SCENES:
        return Recipe(seed=seed)
    return Recipe(model, apart=800, words=2300, together=1000, few_from=3100, seed=seed)


def drawing(model: str) -> Callable[[str, Sequence[int]], Pictures]:
    """Return the function (split, ids) that draws the pictures of an embedded model."""
    return pictures if model == SCENES else photos


def fresh_model(name: str, seed: int) -> Any:
    """Return a model before training: fixed orthonormal words, whose sums can be read off, and positions as waves."""

    def make() -> nn.Module:
        model = blank_vlm(name)
        with torch.no_grad():
            nn.init.orthogonal_(model.model.language_model.embed_tokens.weight)
            place = model.model.vision_tower.embeddings.position_embedding.weight
            place[1:] = 0.4 * build_sincos2d_pos_embed([GRID, GRID], dim=place.shape[1])
        return model

    model = fresh(make, seed)
    model.tie_weights()
    model.model.language_model.embed_tokens.weight.requires_grad_(False)
    return model.train()


def trainer(recipe: Recipe) -> Trainer:
    """Return the trainer of a recipe.

    Each step counts ``(2, 4)`` labels of objects' patches (digit, colour, row, column; right and all) and ``(2, 6)``
    words (of four kinds of answers, captions, and which way it is; right and all).
    """
    model = fresh_model(recipe.model, recipe.seed)
    table = model.model.language_model.embed_tokens.weight
    background = OneWord(table) if recipe.model == SCENES else Texture.fitted(table)
    taught = _Taught(model, drawing(recipe.model), background)
    stages = (0, recipe.apart, recipe.apart + recipe.words)
    return Trainer(model, recipe, partial(_jobs, taught, recipe), recipe.rate_at, (0.9, 0.98), stages)


@dataclass(frozen=True)
class _Taught:
    model: Any
    draw: Callable[[str, Sequence[int]], Pictures]
    background: Background

    @property
    def table(self) -> Tensor:
        return self.model.model.language_model.embed_tokens.weight

    def part(self, loss: Tensor, *counts: Tensor) -> Part:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return Part(torch.autograd.grad(loss, parameters, allow_unused=True), loss.item(), counts)


def _jobs(taught: _Taught, recipe: Recipe, step: int, precision: str) -> list[Callable[[], Part]]:
    first = recipe.seed * FIRST_ID + step * max(recipe.tower_batch, 2 * recipe.batch)
    kinds = QUESTIONS if step < recipe.relations_from else LATER_QUESTIONS
    if step < recipe.apart:
        return [
            partial(_words_part, taught, range(first, first + recipe.batch), precision, kinds, 1.0),
            partial(_labels_part, taught, range(first, first + recipe.tower_batch), precision),
        ]
    if step < recipe.apart + recipe.words:
        halves = _halves(range(first, first + recipe.batch))
        return [partial(_words_part, taught, ids, precision, kinds, len(ids) / recipe.batch) for ids in halves if ids]
    halves = _halves(range(first, first + 2 * recipe.batch))
    few = step >= recipe.few_from
    return [partial(_pictures_part, taught, ids, precision, kinds, few and i == 0) for i, ids in enumerate(halves)]


def _halves(ids: range) -> list[range]:
    middle = (len(ids) + 1) // 2
    return [ids[:middle], ids[middle:]]


def _labels_part(taught: _Taught, ids: range, precision: str) -> Part:
    """Return the tower's part of the first stage."""
    batch = taught.draw("train", ids)
    with autocast(precision):
        tokens = visual_tokens(taught.model, torch.from_numpy(batch.images))
    loss, labels = label_loss(tokens, truth(batch.objects), taught.table, batch.images, taught.background)
    return taught.part(loss, labels, torch.zeros(2, len(TEXTS)))


def _words_part(taught: _Taught, ids: range, precision: str, kinds: Sequence[str], share: float) -> Part:
    """Return the language model's part of a step on words in the place of patches."""
    objects = objects_of("train", ids)
    words = truth(objects)
    generator = torch.Generator().manual_seed(ids.start)
    where = _shown(words, FEW, generator)
    background = taught.background.drawn(len(ids), FEW, generator)
    visual = targets(words.take_along_dim(where[..., None], dim=1), taught.table, background)
    visual = visual + BLUR * torch.randn(visual.shape, generator=generator)
    with autocast(precision):
        loss, read = text_loss(taught.model, visual, where, lines(objects, ids, SEED, kinds))
    return taught.part(share * loss, torch.zeros(2, 4), read)


def _pictures_part(taught: _Taught, ids: range, precision: str, kinds: Sequence[str], few: bool) -> Part:
    """Return the part of both on some pictures."""
    batch = taught.draw("train", ids)
    words = truth(batch.objects)
    count = int(np.random.Generator(np.random.SFC64([9, ids.start])).integers(FEW, CELLS)) if few else CELLS
    where = _shown(words, count, torch.Generator().manual_seed(ids.start))
    with autocast(precision):
        tokens = visual_tokens(taught.model, torch.from_numpy(batch.images))
        visual = tokens.take_along_dim(where[..., None], dim=1)
        loss, read = text_loss(taught.model, visual, where, lines(batch.objects, ids, SEED, kinds))
    label, labels = label_loss(tokens, words, taught.table, batch.images, taught.background)
    return taught.part((loss + LABELS * label) / 2, labels, read)


def _shown(words: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the patches that are shown, ascending ``(B, count)``: all patches of objects, then any."""
    chance = torch.rand(words.shape[:2], generator=generator)
    return (chance + (words[..., 0] != ID[NOTHING])).topk(count, dim=1).indices.sort(dim=1).values

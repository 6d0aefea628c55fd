"""Train the embedded vision-language model from nothing, and write its folder with a card of what it can do.

First, side by side: the tower learns from labels to make of each patch the words of its object, and the language model
learns from the same words, put where the patches would be, to caption and to answer. The tower is done early: the
language model goes on alone. Then both on pictures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from gradprobe.data.pictures import GRID, objects_of, pictures
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.precision import autocast, check_same_precision, chosen
from gradprobe.training.train_scenes import load_checkpoint, save_checkpoint
from gradprobe.vlm.scenes import ID, NOTHING, WIDTH, scenes_vlm
from gradprobe.vlm.training.pictures_loss import (
    ASKED,
    ASKED_LATER,
    BLUR,
    CELLS,
    FEW,
    TOLD,
    compounds,
    label_loss,
    lines,
    told_loss,
    truth,
    visual_tokens,
)  # fmt: skip

THREADS = 2
LABELS = 0.3  # weight of the labels' loss when both learn together: the tokens keep saying what their own patch is
_SIDE = 10**9  # ids of a seed's pictures begin at its multiple


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on, beside the versions of the libraries.

    Attributes:
        apart: steps of the first stage: tower and language model side by side.
        words: steps of the second: the language model alone.
        together: steps of the third: both on pictures.
        few_from: step from which half the pictures show all of the objects but only part of the rest, so that the
            language model does not come to need patches that say nothing.
        relations_from: step from which relations are practised: by then the language model can find an object.
        seed: of the initial weights and of which pictures are seen (ids from ``seed * 10**9`` on).
        tower_batch: pictures a step that the tower sees in the first stage.
        batch: pictures a step that the language model is told of; twice as many in the third stage.
        rate: learning rate of AdamW; the third stage begins at half of it and falls to 0 by a cosine.
        warmup: steps of warm-up at the start of the first and the third stage.
        decay: weight decay.
        save_every: steps between checkpoints.
    """

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
        for name in ("apart", "words", "together", "tower_batch", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: train-scenes needs a whole number from 1 on")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed}: a seed is a whole number from 0 on")

    @property
    def steps(self) -> int:
        """Of all three stages."""
        return self.apart + self.words + self.together


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Attributes:
        done: steps.
        seconds: spent, in all runs together.
        loss: of this step's pictures.
        labels: ``(2, 4)``, right and all among objects' patches: digit, colour, row, column.
        told: ``(2, 6)``, right and all words: of four kinds of answers, captions, and which way it is.
    """

    done: int
    seconds: float
    loss: float
    labels: Tensor
    told: Tensor


def fresh_model(seed: int) -> Any:
    """The model before training: fixed orthonormal words, whose sums can be read off; positions as waves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = scenes_vlm()
        table = model.model.language_model.embed_tokens.weight
        with torch.no_grad():
            nn.init.orthogonal_(table)
            place = model.model.vision_tower.embeddings.position_embedding.weight
            place[1:] = 0.4 * build_sincos2d_pos_embed([GRID, GRID], dim=WIDTH)
    model.tie_weights()
    table.requires_grad_(False)
    return model.train()


def training(recipe: Recipe, checkpoint: Path, resume: bool = True, precision: str = "bfloat16") -> Iterator[Step]:
    """Train, yielding after each step; stopped at any point and called again, it ends with the very same weights.

    Nothing random happens after the first weights: a step's pictures and questions follow from its number.

    Args:
        recipe: what to train.
        checkpoint: written every ``recipe.save_every`` steps and at the end; replaced whole, never half-written.
        resume: go on from the checkpoint where there is one, else begin anew.
        precision: ``float32`` or ``bfloat16``, of matrix products and convolutions; `precision_for` chooses.

    Raises:
        UsageError: the checkpoint is of another recipe or precision.
        GradprobeError: the checkpoint cannot be read, or the loss is not finite.
    """
    model = fresh_model(recipe.seed)
    taught = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(taught, lr=recipe.rate, weight_decay=recipe.decay, betas=(0.9, 0.98))
    done, spent = 0, 0.0
    if resume and checkpoint.exists():
        saved = load_checkpoint(checkpoint, recipe)
        check_same_precision(precision, saved["precision"])
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        done, spent = saved["done"], saved["seconds"]
    began = time.monotonic() - spent
    # One thread an operation, two jobs side by side: no sum depends on how many threads there are.
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        for step in range(done, recipe.steps):
            results = list(workers.map(lambda job: job(), _jobs(model, taught, recipe, step, precision)))
            loss = sum(result[1] for result in results)
            if not math.isfinite(loss):
                raise GradprobeError(f"the loss is {loss} at step {step}; try a smaller rate than {recipe.rate}")
            gradients = [result[0] for result in results]
            workers.submit(_update, taught, optimiser, gradients, _rate(step, recipe)).result()
            seconds = time.monotonic() - began
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                about = {"done": step + 1, "seconds": seconds, "recipe": asdict(recipe), "precision": precision}
                save_checkpoint(checkpoint, {**state, **about})
            labels, told = (sum(result[part] for result in results) for part in (2, 3))
            yield Step(step + 1, seconds, loss, labels, told)


def precision_for(recipe: Recipe, checkpoint: Path, resume: bool, asked: str) -> tuple[str, str]:
    """Choose the precision of a training, and say why; see `gradprobe.training.precision.chosen`.

    What is timed is one step of each stage, on as many threads as the training has; it leaves nothing behind.
    """
    saved = load_checkpoint(checkpoint, recipe)["precision"] if resume and checkpoint.exists() else None
    model = fresh_model(recipe.seed)
    taught = [p for p in model.parameters() if p.requires_grad]
    stages = (0, recipe.apart, recipe.apart + recipe.words)
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as workers:

        def step(precision: str) -> None:
            for number in stages:
                list(workers.map(lambda job: job(), _jobs(model, taught, recipe, number, precision)))

        return chosen(asked, saved, step)


def _jobs(model: Any, taught: Sequence[Tensor], recipe: Recipe, step: int, precision: str) -> list[Any]:
    first = recipe.seed * _SIDE + step * max(recipe.tower_batch, 2 * recipe.batch)
    asked = ASKED if step < recipe.relations_from else ASKED_LATER
    if step < recipe.apart:
        return [
            partial(_tell, model, taught, range(first, first + recipe.batch), precision, asked, 1.0),
            partial(_label, model, taught, range(first, first + recipe.tower_batch), precision),
        ]
    if step < recipe.apart + recipe.words:
        halves = _shares(range(first, first + recipe.batch))
        return [
            partial(_tell, model, taught, half, precision, asked, len(half) / recipe.batch) for half in halves if half
        ]
    halves = _shares(range(first, first + 2 * recipe.batch))
    few = step >= recipe.few_from
    return [partial(_both, model, taught, half, precision, asked, few and i == 0) for i, half in enumerate(halves)]


def _shares(ids: range) -> list[range]:
    middle = (len(ids) + 1) // 2
    return [ids[:middle], ids[middle:]]


def _label(model: Any, taught: Sequence[Tensor], ids: range, precision: str) -> tuple[Any, float, Tensor, Tensor]:
    batch = pictures("train", ids)
    table = model.model.language_model.embed_tokens.weight
    with autocast(precision):
        tokens = visual_tokens(model, torch.from_numpy(batch.images))
    loss, right = label_loss(tokens, truth(batch.objects), table)
    return _gradients(loss, taught), loss.item(), right, torch.zeros(2, len(TOLD))


def _tell(
    model: Any, taught: Sequence[Tensor], ids: range, precision: str, asked: Sequence[str], share: float
) -> tuple[Any, float, Tensor, Tensor]:
    objects = objects_of("train", ids)
    words = truth(objects)
    generator = torch.Generator().manual_seed(ids.start)
    where = _where(words, FEW, generator)
    visual = compounds(words.take_along_dim(where[..., None], dim=1), model.model.language_model.embed_tokens.weight)
    visual = visual + BLUR * torch.randn(visual.shape, generator=generator)
    with autocast(precision):
        loss, told = told_loss(model, visual, where, lines(objects, ids, 7, asked))
    return _gradients(share * loss, taught), share * loss.item(), torch.zeros(2, 4), told


def _both(
    model: Any, taught: Sequence[Tensor], ids: range, precision: str, asked: Sequence[str], few: bool
) -> tuple[Any, float, Tensor, Tensor]:
    batch = pictures("train", ids)
    words = truth(batch.objects)
    count = int(np.random.Generator(np.random.SFC64([9, ids.start])).integers(FEW, CELLS)) if few else CELLS
    where = _where(words, count, torch.Generator().manual_seed(ids.start))
    with autocast(precision):
        tokens = visual_tokens(model, torch.from_numpy(batch.images))
        shown = tokens.take_along_dim(where[..., None], dim=1)
        loss, told = told_loss(model, shown, where, lines(batch.objects, ids, 7, asked))
    labels, right = label_loss(tokens, words, model.model.language_model.embed_tokens.weight)
    loss = (loss + LABELS * labels) / 2
    return _gradients(loss, taught), loss.item(), right, told


def _where(words: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Which patches are shown, ascending ``(B, count)``: all of the objects', then any."""
    chance = torch.rand(words.shape[:2], generator=generator)
    return (chance + (words[..., 0] != ID[NOTHING])).topk(count, dim=1).indices.sort(dim=1).values


def _gradients(loss: Tensor, taught: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, list(taught), allow_unused=True)


def _update(
    taught: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    gradients: Sequence[Sequence[Tensor | None]],
    rate: float,
) -> None:
    for parameter, *parts in zip(taught, *gradients, strict=True):
        there = [part for part in parts if part is not None]
        parameter.grad = torch.stack(there).sum(dim=0) if there else None
    nn.utils.clip_grad_norm_(taught, 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.apart:
        return recipe.rate * min(1.0, (step + 1) / recipe.warmup)
    step -= recipe.apart + recipe.words
    if step < 0:
        return recipe.rate
    falling = 0.5 * (1 + math.cos(math.pi * step / recipe.together))
    return 0.5 * recipe.rate * falling * min(1.0, (step + 1) / recipe.warmup)

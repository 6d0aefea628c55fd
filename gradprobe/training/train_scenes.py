"""Train the embedded scenes model from nothing, and write its weights with a card of what it can do."""

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from gradprobe.data.scenes import GRID, MEAN, NO_COLOUR, NO_DIGIT, PATCH, STD, Scenes, scenes
from gradprobe.embedded.scenes_model import load_scenes_model, scenes_model, scenes_sha256
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.precision import AUTO, autocast, check_same_precision, chosen

K = 58  # tokens kept on the card: 30 % of N = 196
THREADS = 2
PART = 32  # scenes a thread takes at a time
REPORT_EVERY = 25


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on, beside the versions of the libraries.

    Attributes:
        steps: optimiser steps.
        seed: of the initial weights and of which scenes are seen (ids from ``seed * 10**9`` on).
        batch: scenes a step; none is seen twice.
        rate: peak learning rate of AdamW, after a linear warm-up, followed by a cosine to 0.
        warmup: steps of warm-up.
        decay: weight decay.
        save_every: steps between checkpoints.
    """

    steps: int = 1000
    seed: int = 0
    batch: int = 64
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.05
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: train-scenes needs a whole number from 1 on")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed}: a seed is a whole number from 0 on")


@dataclass(frozen=True)
class Step:
    """Where training stands: steps done, seconds spent (in all runs together), loss and accuracy of the last batch."""

    done: int
    seconds: float
    loss: float
    accuracy: float


class Trainee(nn.Module):
    """The model with two heads that exist in training only: what digit, and what colour, each patch belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = scenes_model()
        # Positions as long as tokens: from timm's usual 0.02 they would need long to be heard beside tokens of RMS 1.
        with torch.no_grad():
            self.vit.get_parameter("pos_embed")[0, 1:] = build_sincos2d_pos_embed([GRID, GRID], dim=self.vit.embed_dim)
        self.digit = nn.Linear(self.vit.embed_dim, NO_DIGIT + 1)
        self.colour = nn.Linear(self.vit.embed_dim, NO_COLOUR + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> logits of the class ``(B, 10)``, and by patch of digit ``(B, N, 11)`` and colour ``(B, N, 5)``."""
        tokens = self.vit.forward_features(images)
        return self.vit.forward_head(tokens), self.digit(tokens[:, 1:]), self.colour(tokens[:, 1:])


def training(recipe: Recipe, checkpoint: Path, resume: bool = True, precision: str = "bfloat16") -> Iterator[Step]:
    """Train, yielding after each step; stopped at any point and called again, it ends with the very same weights.

    The loss is cross-entropy on the class plus, from every patch, on the digit and the colour it belongs to.
    Nothing random happens after the first weights: a step's scenes follow from its number.

    Args:
        recipe: what to train.
        checkpoint: written every ``recipe.save_every`` steps and at the end; replaced whole, never half-written.
        resume: go on from the checkpoint where there is one, else begin anew.
        precision: ``float32`` or ``bfloat16``, of matrix products and convolutions; `precision_for` chooses.

    Raises:
        UsageError: the checkpoint is of another recipe or precision.
        GradprobeError: the checkpoint cannot be read, or the loss is not finite.
    """
    model = _fresh(recipe.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    done, spent = 0, 0.0
    if resume and checkpoint.exists():
        saved = load_checkpoint(checkpoint, recipe)
        check_same_precision(precision, saved["precision"])
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        done, spent = saved["done"], saved["seconds"]
    began = time.monotonic() - spent
    # One thread an operation, parts of the batch side by side: threads wait for each other twice a step, and no sum
    # depends on how many there are.
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        for step in range(done, recipe.steps):
            first = recipe.seed * 10**9 + step * recipe.batch
            end = first + recipe.batch
            parts = [range(i, min(i + PART, end)) for i in range(first, end, PART)]
            results = list(workers.map(partial(_gradients, model, precision), parts))
            loss = sum(loss * len(part) for (_, loss, _), part in zip(results, parts, strict=True)) / recipe.batch
            if not math.isfinite(loss):
                raise GradprobeError(f"the loss is {loss} at step {step}; try a smaller rate than {recipe.rate}")
            shares = [len(part) / recipe.batch for part in parts]
            rate = recipe.rate * _schedule(step, recipe)
            workers.submit(_update, model, optimiser, [gradients for gradients, _, _ in results], shares, rate).result()
            seconds = time.monotonic() - began
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                about = {"done": step + 1, "seconds": seconds, "recipe": asdict(recipe), "precision": precision}
                save_checkpoint(checkpoint, {**state, **about})
            yield Step(step + 1, seconds, loss, sum(right for _, _, right in results) / recipe.batch)


def precision_for(recipe: Recipe, checkpoint: Path, resume: bool, asked: str) -> tuple[str, str]:
    """Choose the precision of a training, and say why; see `gradprobe.training.precision.chosen`.

    What is timed is a part of the first step, on as many threads as the training has; it leaves nothing behind.
    """
    saved = load_checkpoint(checkpoint, recipe)["precision"] if resume and checkpoint.exists() else None
    model, first = _fresh(recipe.seed), recipe.seed * 10**9
    size = max(1, min(recipe.batch, PART) // 4)
    parts = [range(first + i * size, first + (i + 1) * size) for i in range(THREADS)]
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        return chosen(asked, saved, lambda precision: list(workers.map(partial(_gradients, model, precision), parts)))


def pretrain(recipe: Recipe, out: Path, resume: bool = True, held_out: int = 4000, precision: str = AUTO) -> dict:
    """Train with a progress bar, then write ``scenes.safetensors`` and its card ``scenes.json`` into ``out``.

    Args:
        recipe: what to train.
        out: a folder, made if needed; holds the checkpoint too, until all is written.
        resume: go on from the checkpoint in ``out`` where there is one.
        held_out: scenes of held-out digits that the card's accuracies are measured on.
        precision: ``float32``, ``bfloat16`` or ``auto``: that of the checkpoint, else the faster one.

    Returns:
        The card.

    Raises:
        UsageError: the checkpoint in ``out`` is of another recipe or precision.
        GradprobeError: the checkpoint cannot be read, or the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "scenes.checkpoint.pt"
    console = Console(stderr=True)
    precision, reason = precision_for(recipe, checkpoint, resume, precision)
    console.print(reason, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=recipe.steps)
        loss = accuracy = 0.0
        for step in training(recipe, checkpoint, resume, precision):
            loss, accuracy = loss + step.loss / REPORT_EVERY, accuracy + step.accuracy / REPORT_EVERY
            bar.update(task, completed=step.done)
            if step.done % REPORT_EVERY == 0:
                told = f"step {step.done}: loss {loss:.3f}, accuracy {accuracy:.3f} in training, {step.seconds:.0f} s"
                bar.console.print(told, highlight=False)
                loss = accuracy = 0.0
    console.print(f"measuring on {held_out} held-out scenes", highlight=False)
    return _write(recipe, checkpoint, out, held_out)


def evaluate(model: VisionTransformer, count: int, k: int = K, first: int = 0, batch: int = 100) -> dict[str, float]:
    """The share of held-out scenes read rightly: with all tokens, and with the K that each simple rule keeps.

    Rules: ``random``; ``red_first`` (patches of the red digit, then of other digits, then any); ``token_norm`` (largest
    L2 norm of patch embedding plus position); ``pixel_norm`` (largest L2 norm of the patch's pixels, black being 0).

    Args:
        model: reads scenes; in evaluation mode.
        count: scenes of the "heldout" split, with ids from ``first`` on.
        k: patch tokens kept.
        first: the first id.
        batch: scenes at a time.

    Returns:
        Accuracy in [0, 1] by rule, and ``unpruned``.
    """
    right: dict[str, int] = {}
    with torch.inference_mode():
        for start in range(first, first + count, batch):
            ids = range(start, min(start + batch, first + count))
            data = scenes("heldout", ids)
            tokens = _embed(model, torch.from_numpy(data.images))
            labels = torch.from_numpy(data.labels)
            logits = {"unpruned": _finish(model, tokens)}
            for rule, scores in _rules(data, tokens, ids).items():
                kept = scores.topk(k, dim=1).indices.sort(dim=1).values
                few = tokens[:, 1:].take_along_dim(kept[..., None], dim=1)
                logits[rule] = _finish(model, torch.cat([tokens[:, :1], few], dim=1))
            for rule, values in logits.items():
                right[rule] = right.get(rule, 0) + int((values.argmax(dim=1) == labels).sum())
    return {rule: number / count for rule, number in right.items()}


def _rules(data: Scenes, tokens: Tensor, ids: range) -> dict[str, Tensor]:
    chance = np.stack([np.random.Generator(np.random.SFC64([1, i])).random(data.red.shape[1]) for i in ids])
    digits = (data.digit_of != NO_DIGIT).astype(float)
    energy = ((data.images * STD + MEAN) ** 2).reshape(len(ids), 3, GRID, PATCH, GRID, PATCH).sum(axis=(1, 3, 5))
    return {
        "random": torch.from_numpy(chance),
        "red_first": torch.from_numpy(chance + digits + data.red),
        "token_norm": tokens[:, 1:].norm(dim=2),
        "pixel_norm": torch.from_numpy(energy).flatten(1),
    }


def _embed(model: VisionTransformer, images: Tensor) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(images)))


def _finish(model: VisionTransformer, tokens: Tensor) -> Tensor:
    return model.forward_head(model.norm(model.blocks(tokens)))


def _fresh(seed: int) -> Trainee:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Trainee().to(memory_format=torch.channels_last)


def _gradients(model: Trainee, precision: str, ids: range) -> tuple[tuple[Tensor, ...], float, int]:
    """Gradients of the mean loss over some scenes, that loss, and how many of them were read rightly."""
    batch = scenes("train", ids)
    images = torch.from_numpy(batch.images).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(batch.labels)
    with autocast(precision):
        by_class, by_digit, by_colour = (logits.float() for logits in model(images))
    # Four of five patches belong to no digit: at full weight they would drown the others.
    few = torch.ones(NO_DIGIT + 1).index_fill(0, torch.tensor(NO_DIGIT), 0.25)
    digit_of = torch.from_numpy(batch.digit_of).long().flatten()
    colour_of = torch.from_numpy(batch.colour_of).long().flatten()
    loss = (
        F.cross_entropy(by_class, labels)
        + F.cross_entropy(by_digit.flatten(0, 1), digit_of, weight=few)
        + F.cross_entropy(by_colour.flatten(0, 1), colour_of, weight=few[-NO_COLOUR - 1 :])
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return gradients, loss.item(), int((by_class.argmax(dim=1) == labels).sum())


def _update(
    model: Trainee,
    optimiser: torch.optim.Optimizer,
    gradients: list[tuple[Tensor, ...]],
    shares: list[float],
    rate: float,
) -> None:
    for parameter, *parts in zip(model.parameters(), *gradients, strict=True):
        parameter.grad = torch.stack([part * share for part, share in zip(parts, shares, strict=True)]).sum(dim=0)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


def _schedule(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)))


def load_checkpoint(checkpoint: Path, recipe: Any) -> dict:
    """Read a checkpoint of this recipe.

    Raises:
        UsageError: it is of another recipe.
        GradprobeError: it cannot be read.
    """
    again = f"remove {checkpoint}, or pass --restart to begin anew"
    try:
        saved = torch.load(checkpoint, weights_only=True)
        theirs = saved["recipe"]
    except Exception as error:  # torch.load raises many kinds
        raise GradprobeError(f"cannot read the checkpoint {checkpoint} ({type(error).__name__}); {again}") from None
    differ = [f"{name}={theirs.get(name)}" for name, value in asdict(recipe).items() if theirs.get(name) != value]
    if differ:
        raise UsageError(f"{checkpoint} was begun with {', '.join(differ)}; ask for the same, or {again}")
    return {"precision": "bfloat16", **saved}  # the only one, when checkpoints did not name it


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint whole: a kill leaves the one before."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def _write(recipe: Recipe, checkpoint: Path, out: Path, held_out: int) -> dict:
    saved = load_checkpoint(checkpoint, recipe)
    state = {name[4:]: value for name, value in saved["model"].items() if name.startswith("vit.")}
    weights, part = out / "scenes.safetensors", out / "scenes.safetensors.part"
    part.write_bytes(save({name: value.half().contiguous() for name, value in state.items()}))
    part.replace(weights)
    accuracy = evaluate(load_scenes_model(weights), held_out)
    card = {
        "model": "scenes",
        "command": f"gradprobe train-scenes --steps {recipe.steps} --seed {recipe.seed} --precision "
        f"{saved['precision']} --out gradprobe/assets",
        "recipe": asdict(recipe),
        "scenes_seen": recipe.steps * recipe.batch,
        "precision": saved["precision"],
        "seconds": round(saved["seconds"]),
        "versions": {name: version(name) for name in ("torch", "timm", "numpy", "scikit-learn")},
        "sha256": scenes_sha256(weights),
        "parameters": sum(value.numel() for value in state.values()),
        "held_out_scenes": held_out,
        "k": K,
        "accuracy": {rule: round(value, 5) for rule, value in accuracy.items()},
    }
    (out / "scenes.json").write_text(json.dumps(card, indent=2) + "\n")
    checkpoint.unlink()
    return card

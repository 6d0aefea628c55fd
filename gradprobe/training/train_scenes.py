"""Training of the embedded scenes models from scratch, and a card of what each can do."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from gradprobe.data.photo_scenes import data_name, drawing
from gradprobe.data.scenes import GRID, MEAN, NO_COLOUR, NO_DIGIT, PATCH, STD, Scenes
from gradprobe.embedded.scenes_model import MODELS, PHOTOS, SCENES, load_scenes_model, scenes_model, scenes_sha256
from gradprobe.errors import UsageError, nearest
from gradprobe.files import atomic_write
from gradprobe.training.from_scratch import FIRST_ID, Part, Step, Trainer, check_recipe, fresh
from gradprobe.training.precision import AUTO, autocast

CHECKPOINT = "scenes.checkpoint.safetensors"
K, FEW = 58, 20  # tokens kept on the card: 30 % of N = 196, and 10 %
PART = 32  # scenes of a part
Draw = Callable[[str, Sequence[int]], Scenes]
LIBRARIES = ("torch", "timm", "numpy", "scikit-learn")
PHOTO_LIBRARIES = ("matplotlib", "pillow")  # photographs, and what decodes them


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on, beside the versions of the libraries.

    Attributes:
        pictures: Model, and so the scenes: ``scenes`` on black, ``photos`` on photographs.
        steps: Optimiser steps.
        seed: Seed of the initial weights and of the scenes (ids from ``seed * 10**9`` on).
        batch: Scenes a step; none is seen twice.
        rate: Peak learning rate of AdamW, after a linear warm-up, followed by a cosine to 0.
        warmup: Steps of warm-up.
        decay: Weight decay.
        save_every: Steps between checkpoints.
    """

    pictures: str = SCENES
    steps: int = 1000
    seed: int = 0
    batch: int = 64
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.05
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.pictures not in MODELS:
            raise UsageError(f"--pictures {self.pictures} is not possible; {nearest(self.pictures, MODELS)}")
        check_recipe(self, "steps", "batch", "save_every")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        falling = 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        return self.rate * ((step + 1) / self.warmup if step < self.warmup else falling)


def recipe_of(pictures: str, steps: int | None = None, seed: int = 0) -> Recipe:
    """Return the recipe of an embedded model; by default scenes on photographs are practised three times as long."""
    return Recipe(pictures, steps=(3000 if pictures == PHOTOS else 1000) if steps is None else steps, seed=seed)


class Trainee(nn.Module):
    """Scenes model with two heads for training only: the digit and the colour that each patch belongs to."""

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


def trainer(recipe: Recipe) -> Trainer:
    """Return the trainer of a recipe; each step counts the scenes read rightly.

    The loss is the cross-entropy of the class plus, from every patch, of the digit and the colour it belongs to.
    """
    model = fresh(Trainee, recipe.seed).to(memory_format=torch.channels_last)
    draw = drawing(recipe.pictures)

    def jobs(step: int, precision: str) -> list[Callable[[], Part]]:
        first = recipe.seed * FIRST_ID + step * recipe.batch
        end = first + recipe.batch
        parts = [range(i, min(i + PART, end)) for i in range(first, end, PART)]
        return [partial(_part, model, draw, precision, ids, len(ids) / recipe.batch) for ids in parts]

    return Trainer(model, recipe, jobs, recipe.rate_at)


def train_scenes(recipe: Recipe, out: Path, resume: bool = True, held_out: int = 4000, precision: str = AUTO) -> dict:
    """Train with a progress bar, and write weights and card: ``scenes.safetensors`` and ``scenes.json``, or ``photos``.

    Args:
        recipe: Recipe of the training.
        out: Folder, made if needed; holds the checkpoint too, until everything is written.
        resume: Whether to resume from the checkpoint in ``out`` where there is one.
        held_out: Number of scenes of held-out digits for the card's accuracies.
        precision: ``float32``, ``bfloat16`` or ``auto``: that of the checkpoint, else the faster one.

    Returns:
        The card.

    Raises:
        UsageError: The checkpoint in ``out`` is of another recipe or precision.
        GradprobeError: The checkpoint cannot be read, or the loss is not finite.
    """
    name, training = recipe.pictures, trainer(recipe)
    progress = training.run_with_bar(out / CHECKPOINT, resume, precision, partial(_report, recipe.batch))
    Console(stderr=True).print(f"measuring on {held_out} held-out scenes", highlight=False)
    state = {
        key: value.detach().half().contiguous()
        for key, value in training.model.get_submodule("vit").state_dict().items()
    }
    weights = out / MODELS[name].name
    atomic_write(weights, save(state))
    libraries = LIBRARIES + (PHOTO_LIBRARIES if name == PHOTOS else ())
    model = load_scenes_model(weights)
    accuracy, of_few = (_rounded(evaluate(model, held_out, name, k)) for k in (K, FEW))
    card = {
        "model": name,
        "data": data_name(name),
        "command": f"gradprobe train-scenes --pictures {name} --steps {recipe.steps} --seed {recipe.seed} --precision "
        f"{progress['precision']} --out gradprobe/embedded",
        "recipe": asdict(recipe),
        "scenes_seen": recipe.steps * recipe.batch,
        "precision": progress["precision"],
        "seconds": round(progress["seconds"]),
        "versions": {library: version(library) for library in libraries},
        "sha256": scenes_sha256(weights),
        "parameters": sum(value.numel() for value in state.values()),
        "held_out_scenes": held_out,
        "k": K,
        "accuracy": accuracy,
        "few": {"k": FEW, "accuracy": of_few},
    }
    (out / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    (out / CHECKPOINT).unlink()
    return card


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {rule: round(share, 5) for rule, share in shares.items()}


def _report(batch: int, steps: Sequence[Step]) -> str:
    loss = sum(step.loss for step in steps) / len(steps)
    accuracy = sum(int(step.counts[0]) for step in steps) / (len(steps) * batch)
    return f"loss {loss:.3f}, accuracy {accuracy:.3f} in training"


def evaluate(
    model: VisionTransformer, count: int, pictures: str = SCENES, k: int = K, first: int = 0, batch: int = 100
) -> dict[str, float]:
    """Return the accuracy on held-out scenes with all tokens, and with the K that each simple rule keeps.

    Rules: ``random``; ``red_first`` (patches of the red digit, then of other digits, then any); ``token_norm`` (largest
    L2 norm of patch embedding plus position); ``pixel_norm`` (largest L2 norm of the patch's pixels, black being 0).

    Args:
        model: Scenes model in evaluation mode.
        count: Number of scenes of the "heldout" split.
        pictures: ``scenes`` or ``photos``.
        k: Patch tokens kept.
        first: First id.
        batch: Scenes at a time.

    Returns:
        Accuracy in [0, 1] by rule, and ``unpruned``.
    """
    right: dict[str, int] = {}
    with torch.inference_mode():
        for start in range(first, first + count, batch):
            ids = range(start, min(start + batch, first + count))
            data = drawing(pictures)("heldout", ids)
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


def _part(model: Trainee, draw: Draw, precision: str, ids: range, share: float) -> Part:
    batch = draw("train", ids)
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
    right = (by_class.argmax(dim=1) == labels).sum()
    return Part([gradient * share for gradient in gradients], loss.item() * share, (right,))

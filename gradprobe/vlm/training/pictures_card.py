"""Card of an embedded vision-language model, and its folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gradprobe.embedded.vlms import training_command
from gradprobe.training.from_scratch import Step
from gradprobe.training.precision import AUTO
from gradprobe.vlm.embedded import digits_processor
from gradprobe.vlm.training.pictures import Recipe, drawing, trainer
from gradprobe.vlm.training.pictures_accuracy import FIRST, evaluate, token_diversity
from gradprobe.vlm.training.pictures_loss import CELLS, TEXTS

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "matplotlib", "pillow")
# Last layer of DeiT-Tiny (N = 196) and second last of a ViT-S/14, by benchmarks/tower_diversity.py on Imagenette.
REAL_TOWERS: Mapping[str, Mapping[str, float]] = {
    "DeiT-Tiny, last layer": {"cosine": 0.297, "effective_rank": 21.7},
    "ViT-S/14, second last layer": {"cosine": 0.414, "effective_rank": 8.8},
}


def train_pictures(recipe: Recipe, out: Path, resume: bool = True, held_out: int = 4000, precision: str = AUTO) -> dict:
    """Train with a progress bar, and write the model's folder (weights in half precision) with its card ``card.json``.

    Args:
        recipe: Recipe of the training.
        out: Folder, made if needed; holds the checkpoint too, until everything is written.
        resume: Whether to resume from the checkpoint in ``out`` where there is one.
        held_out: Number of pictures of held-out digits for the card's accuracies, a quarter of each kind.
        precision: ``float32``, ``bfloat16`` or ``auto``: that of the checkpoint, else the faster one.

    Returns:
        The card.

    Raises:
        UsageError: The checkpoint in ``out`` is of another recipe or precision.
        GradprobeError: The checkpoint cannot be read, or the loss is not finite.
    """
    training, checkpoint = trainer(recipe), out / f"{recipe.model}.checkpoint.safetensors"
    progress = training.run_with_bar(checkpoint, resume, precision, _report)
    Console(stderr=True).print(f"measuring on {held_out} held-out pictures", highlight=False)
    _save_model(training.model, out)
    from transformers import LlavaForConditionalGeneration

    saved = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float32, local_files_only=True).eval()
    draw = drawing(recipe.model)
    accuracy = evaluate(saved, draw, held_out)
    weights = out / "model.safetensors"
    card = {
        "model": recipe.model,
        "command": f"{training_command(recipe.model, recipe.seed)} --precision {progress['precision']}",
        "recipe": asdict(recipe),
        "steps_done": progress["done"],
        "precision": progress["precision"],
        "seconds": round(progress["seconds"]),
        "versions": {name: version(name) for name in LIBRARIES},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "visual_tokens": CELLS,
        "held_out_pictures": held_out,
        "first_picture": FIRST,
        "accuracy": {rule: {n: round(x, 4) for n, x in shares.items()} for rule, shares in accuracy.items()},
        "diversity": {n: round(x, 4) for n, x in token_diversity(saved, draw).items()},
        "diversity_of_real_towers": REAL_TOWERS,
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    checkpoint.unlink()
    return card


def _report(steps: Sequence[Step]) -> str:
    labels, words = (sum(counts[1:], counts[0]) for counts in zip(*(step.counts for step in steps), strict=True))
    shares = [*(labels[0] / labels[1]).tolist(), *(words[0] / words[1]).tolist()]
    named = zip(("digit", "colour", "row", "column", *TEXTS), shares, strict=True)
    accuracies = ", ".join(f"{name} {share:.1%}" for name, share in named if not math.isnan(share))
    return f"loss {sum(step.loss for step in steps) / len(steps):.3f}, {accuracies}"


def _save_model(model: Any, out: Path) -> None:
    """Write the files that transformers opens: model in half precision (opened in single), tokenizer and processor."""
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    half.pop("lm_head.weight", None)  # tied to the words
    model.save_pretrained(out, state_dict=half)
    digits_processor().save_pretrained(out)

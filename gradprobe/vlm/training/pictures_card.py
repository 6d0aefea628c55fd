"""Card of the embedded vision-language model, its accuracy with all visual tokens and with few, and its folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gradprobe.data.pictures import pictures
from gradprobe.data.pictures_text import KINDS, questions
from gradprobe.training.from_scratch import Step
from gradprobe.training.precision import AUTO
from gradprobe.vlm.scenes import scenes_processor
from gradprobe.vlm.training.pictures import Recipe, trainer
from gradprobe.vlm.training.pictures_loss import (
    CELLS,
    TEXTS,
    WHICH_WAY,
    caption_line,
    lines_of,
    text_loss,
    visual_tokens,
)

BUDGETS = (33, 22, 11)
CHECKPOINT = "scenes_vlm.checkpoint.safetensors"
_CHANCE = 8  # first word of the seed of a picture's random ranking


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
    training = trainer(recipe)
    progress = training.run_with_bar(out / CHECKPOINT, resume, precision, _report)
    Console(stderr=True).print(f"measuring on {held_out} held-out pictures", highlight=False)
    _save_model(training.model, out)
    from transformers import LlavaForConditionalGeneration

    saved = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float32, local_files_only=True).eval()
    accuracy = evaluate(saved, held_out)
    weights = out / "model.safetensors"
    card = {
        "model": "scenes-vlm",
        "command": f"gradprobe vlm train-scenes --seed {recipe.seed} --precision {progress['precision']} "
        "--out gradprobe/embedded/scenes_vlm",
        "recipe": asdict(recipe),
        "steps_done": progress["done"],
        "precision": progress["precision"],
        "seconds": round(progress["seconds"]),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "visual_tokens": CELLS,
        "held_out_pictures": held_out,
        "accuracy": {rule: {n: round(x, 4) for n, x in shares.items()} for rule, shares in accuracy.items()},
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    (out / CHECKPOINT).unlink()
    return card


def _report(steps: Sequence[Step]) -> str:
    labels, words = (sum(counts[1:], counts[0]) for counts in zip(*(step.counts for step in steps), strict=True))
    shares = [*(labels[0] / labels[1]).tolist(), *(words[0] / words[1]).tolist()]
    named = zip(("digit", "colour", "row", "column", *TEXTS), shares, strict=True)
    accuracies = ", ".join(f"{name} {share:.1%}" for name, share in named if not math.isnan(share))
    return f"loss {sum(step.loss for step in steps) / len(steps):.3f}, {accuracies}"


def evaluate(model: Any, count: int, budgets: tuple[int, ...] = BUDGETS, batch: int = 50) -> dict[str, dict]:
    """Return the accuracy of answers and of the captions' words on held-out pictures.

    Rules: ``unpruned``; ``random_K``; ``relevant_K``, patches of objects first (in random order), then any. Kept tokens
    have their original order and positions. Each word of a caption is predicted from the right ones before it.

    Args:
        model: Model in evaluation mode.
        count: Number of pictures of the "heldout" split, each with its caption and one question.
        budgets: Visual tokens kept, K.
        batch: Pictures at a time.

    Returns:
        By rule: accuracy of each kind, ``caption`` and ``average`` (of the kinds).
    """
    rules: dict[str, tuple[int, bool]] = {"unpruned": (CELLS, False)}
    rules |= {f"random_{k}": (k, False) for k in budgets} | {f"relevant_{k}": (k, True) for k in budgets}
    tally = {rule: torch.zeros(2, len(TEXTS)) for rule in rules}
    with torch.inference_mode():
        for start in range(0, count, batch):
            ids = range(start, min(start + batch, count))
            data = pictures("heldout", ids)
            tokens = visual_tokens(model, torch.from_numpy(data.images))
            samples = questions("heldout", ids)
            text = lines_of(
                [
                    [caption_line(objects), (q.kind, f"{q.text} answer :", q.answer)]
                    for objects, q in zip(data.objects, samples, strict=True)
                ]
            )
            chance = np.stack([np.random.Generator(np.random.SFC64([_CHANCE, i])).random(CELLS) for i in ids])
            for rule, (k, relevant) in rules.items():
                scores = torch.from_numpy(chance + data.relevant if relevant else chance)
                where = scores.topk(k, dim=1).indices.sort(dim=1).values
                tally[rule] += text_loss(model, tokens.take_along_dim(where[..., None], dim=1), where, text)[1]
    accuracy = {}
    for rule, (right, total) in tally.items():
        shares = dict(zip(TEXTS, (right / total).tolist(), strict=True))
        del shares[TEXTS[WHICH_WAY]]  # an exercise only
        accuracy[rule] = shares | {"average": float((right / total)[: len(KINDS)].mean())}
    return accuracy


def _save_model(model: Any, out: Path) -> None:
    """Write the files that transformers opens: model in half precision (opened in single), tokenizer and processor."""
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    half.pop("lm_head.weight", None)  # tied to the words
    model.save_pretrained(out, state_dict=half)
    scenes_processor().save_pretrained(out)

"""What the embedded vision-language model can do, with all visual tokens and with few, and the folder it comes in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gradprobe.data.pictures import pictures
from gradprobe.data.pictures_text import KINDS, questions
from gradprobe.training.precision import AUTO
from gradprobe.training.train_scenes import load_checkpoint
from gradprobe.vlm.scenes import scenes_processor
from gradprobe.vlm.training.pictures import Recipe, fresh_model, precision_for, training
from gradprobe.vlm.training.pictures_loss import CELLS, TOLD, WHICH_WAY, captioned, lines_of, told_loss, visual_tokens

BUDGETS = (33, 22, 11)
REPORT_EVERY = 25
CHECKPOINT = "scenes_vlm.checkpoint.pt"
_CHANCE = 8  # first word of the seed of a picture's random ranking


def pretrain(recipe: Recipe, out: Path, resume: bool = True, held_out: int = 4000, precision: str = AUTO) -> dict:
    """Train with a progress bar, then write the model's folder with its card ``card.json``.

    Args:
        recipe: what to train.
        out: the folder, made if needed; holds the checkpoint too, until all is written.
        resume: go on from the checkpoint in ``out`` where there is one.
        held_out: pictures of held-out digits that the card's accuracies are measured on; a quarter of each kind.
        precision: ``float32``, ``bfloat16`` or ``auto``: that of the checkpoint, else the faster one.

    Returns:
        The card.

    Raises:
        UsageError: the checkpoint in ``out`` is of another recipe or precision.
        GradprobeError: the checkpoint cannot be read, or the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    precision, reason = precision_for(recipe, out / CHECKPOINT, resume, precision)
    console.print(reason, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=recipe.steps)
        loss, labels, told = 0.0, torch.zeros(2, 4), torch.zeros(2, len(TOLD))
        for step in training(recipe, out / CHECKPOINT, resume, precision):
            loss, labels, told = loss + step.loss, labels + step.labels, told + step.told
            bar.update(task, completed=step.done)
            if step.done % REPORT_EVERY == 0:
                shares = [*(labels[0] / labels[1]).tolist(), *(told[0] / told[1]).tolist()]
                names = ("digit", "colour", "row", "column", *TOLD)
                asked = [(name, x) for name, x in zip(names, shares, strict=True) if not math.isnan(x)]
                read = ", ".join(f"{name} {x:.1%}" for name, x in asked)
                line = f"step {step.done}: loss {loss / REPORT_EVERY:.3f}, {read}, {step.seconds:.0f} s"
                bar.console.print(line, highlight=False, soft_wrap=True)
                loss, labels, told = 0.0, torch.zeros(2, 4), torch.zeros(2, len(TOLD))
    console.print(f"measuring on {held_out} held-out pictures", highlight=False)
    return write(recipe, out, held_out)


def evaluate(model: Any, count: int, budgets: tuple[int, ...] = BUDGETS, batch: int = 50) -> dict[str, dict]:
    """The share of answers and of the captions' words that are right on held-out pictures.

    Rules: ``unpruned``; ``random_K``; ``relevant_K``, patches of objects first (in random order), then any. Kept tokens
    have their original order and positions. A caption's words are told one by one, the right ones before given.

    Args:
        model: the whole model, in evaluation mode.
        count: pictures of the "heldout" split, from id 0 on; each with its caption and one question.
        budgets: visual tokens kept, K.
        batch: pictures at a time.

    Returns:
        By rule: share right of each kind, ``caption`` and ``average`` (of the kinds).
    """
    rules: dict[str, tuple[int, bool]] = {"unpruned": (CELLS, False)}
    rules |= {f"random_{k}": (k, False) for k in budgets} | {f"relevant_{k}": (k, True) for k in budgets}
    tally = {rule: torch.zeros(2, len(TOLD)) for rule in rules}
    with torch.inference_mode():
        for start in range(0, count, batch):
            ids = range(start, min(start + batch, count))
            data = pictures("heldout", ids)
            tokens = visual_tokens(model, torch.from_numpy(data.images))
            asked = questions("heldout", ids)
            text = lines_of([
                [captioned(objects), (q.kind, f"{q.text} answer :", q.answer)]
                for objects, q in zip(data.objects, asked, strict=True)
            ])  # fmt: skip
            chance = np.stack([np.random.Generator(np.random.SFC64([_CHANCE, i])).random(CELLS) for i in ids])
            for rule, (k, relevant) in rules.items():
                scores = torch.from_numpy(chance + data.relevant if relevant else chance)
                where = scores.topk(k, dim=1).indices.sort(dim=1).values
                tally[rule] += told_loss(model, tokens.take_along_dim(where[..., None], dim=1), where, text)[1]
    found = {}
    for rule, (right, told) in tally.items():
        shares = dict(zip(TOLD, (right / told).tolist(), strict=True))
        del shares[TOLD[WHICH_WAY]]  # an exercise only
        found[rule] = shares | {"average": float((right / told)[: len(KINDS)].mean())}
    return found


def write(recipe: Recipe, out: Path, held_out: int, note: str | None = None) -> dict:
    """Write the folder of the model in the checkpoint (weights in half precision), measure it, and write its card.

    Args:
        recipe: what was trained.
        out: the folder, with the checkpoint in it.
        held_out: pictures to measure on.
        note: more for the card.

    Returns:
        The card. The checkpoint is removed when it is of the last step.
    """
    saved = load_checkpoint(out / CHECKPOINT, recipe)
    model = fresh_model(recipe.seed)
    model.load_state_dict(saved["model"])
    save_model(model, out)
    from transformers import LlavaForConditionalGeneration

    kept = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float32, local_files_only=True).eval()
    accuracy = evaluate(kept, held_out)
    weights = out / "model.safetensors"
    card = {
        "model": "scenes-vlm",
        "command": f"gradprobe vlm train-scenes --seed {recipe.seed} --precision {saved['precision']} "
        "--out gradprobe/embedded/scenes_vlm",
        "recipe": asdict(recipe),
        "steps_done": saved["done"],
        "precision": saved["precision"],
        "seconds": round(saved["seconds"]),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "parameters": sum(p.numel() for p in kept.parameters()),
        "visual_tokens": CELLS,
        "held_out_pictures": held_out,
        "accuracy": _rounded(accuracy),
    }
    card |= {"note": note} if note else {}
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    if saved["done"] == recipe.steps:
        (out / CHECKPOINT).unlink()
    return card


def save_model(model: Any, out: Path) -> None:
    """The files that transformers opens: model in half precision (opened in single), tokenizer and processor."""
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    half.pop("lm_head.weight", None)  # tied to the words
    model.save_pretrained(out, state_dict=half)
    processor = scenes_processor()
    processor.save_pretrained(out)


def _rounded(found: dict[str, dict]) -> dict[str, dict]:
    rounded: Callable[[dict], dict] = lambda shares: {name: round(share, 4) for name, share in shares.items()}  # noqa: E731
    return {rule: rounded(shares) for rule, shares in found.items()}

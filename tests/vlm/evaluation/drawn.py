"""Questions about the pictures of an embedded model, in the formats of GQA, POPE and MME."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from published import written

from gradprobe.data.photos import photos
from gradprobe.data.pictures import as_bytes, objects_of
from gradprobe.data.pictures_text import question
from gradprobe.vlm.evaluation.benchmarks import MME_CATEGORIES

FIRST = 50_000  # held-out pictures from here on


def picture_of(number: int) -> Image.Image:
    """A held-out picture on a photograph."""
    return Image.fromarray(as_bytes(photos("heldout", [FIRST + number]).images)[0])


def _png(number: int) -> bytes:
    """The same without loss."""
    out = io.BytesIO()
    picture_of(number).save(out, "PNG")
    return out.getvalue()


def _asked(number: int, kind: str, seed: int = 0) -> tuple[str, str]:
    (objects,) = objects_of("heldout", [FIRST + number])
    return question(objects, kind, np.random.default_rng([number, seed]))


def _asked_with(number: int, answer: str) -> str:
    """A question about existence with this answer."""
    return next(text for seed in range(100) for text, said in [_asked(number, "existence", seed)] if said == answer)


def gqa(folder: Path, count: int) -> Path:
    entries = {}
    for i in range(count):
        text, answer = _asked(i, "relations")
        entries[str(i)] = {"imageId": f"n{i}", "question": text, "answer": answer}
        written(folder / "images" / f"n{i}.jpg", _png(i))
    written(folder / "testdev_balanced_questions.json", json.dumps(entries))
    return folder


def pope(folder: Path, count: int) -> Path:
    """``count`` questions of each of the three kinds."""
    for place, split in enumerate(("random", "popular", "adversarial")):
        entries = []
        for i in range(place * count, (place + 1) * count):
            text, answer = _asked(i, "existence")
            entries.append({"question_id": i, "image": f"COCO_val2014_{i:012}.jpg", "text": text, "label": answer})
            written(folder / "val2014" / f"COCO_val2014_{i:012}.jpg", _png(i))
        written(folder / f"coco_pope_{split}.json", "\n".join(map(json.dumps, entries)))
    return folder


def mme(folder: Path, count: int) -> Path:
    """``count`` pictures of each category."""
    for place, category in enumerate(MME_CATEGORIES):
        for i in range(place * count, (place + 1) * count):
            lines = "".join(f"{_asked_with(i, answer)}\t{answer.title()}\n" for answer in ("yes", "no"))
            written(folder / category / f"{i:04}.txt", lines)
            written(folder / category / f"{i:04}.png", _png(i))
    return folder

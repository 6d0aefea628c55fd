"""Tiny vision-language models with processors, and captioned images on disk, for tests of training."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_vlms import BOS, IMAGE, PAD, tiny

from gradprobe.vlm.model import VLM
from gradprobe.vlm.training.presets import Settings
from gradprobe.vlm.training.result import TrainingResult
from gradprobe.vlm.training.train import fit

SIZES = ((28, 28), (40, 56), (16, 16))  # widths and heights: a different number of tokens each, except for LLaVA
SCORER = "transformer:depth=1,width=16,heads=2"
FEW = Settings(
    k=6, scorer=SCORER, denoiser="token:width=16", steps=6, batch_size=4, learning_rate=1e-2, tau_steps=3, validation=4,
    save_every=2,
)  # fmt: skip
CAPTIONS = ("a red square", "the dog sits on grass", "two boats", "a tall tower at night")


class Words:
    """One number a word, from a hash; the placeholder of an image has its own."""

    eos_token_id, pad_token_id = 2, PAD

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = text.replace("<image>", " <image> ").split()
        hashes = [int(hashlib.sha256(word.encode()).hexdigest(), 16) for word in words]
        ids = [IMAGE if word == "<image>" else 3 + number % 50 for word, number in zip(words, hashes, strict=True)]
        return {"input_ids": [BOS] * add_special_tokens + ids}


@dataclass
class Processor:
    image_processor: object
    tokenizer: object
    image_token: str = "<image>"
    image_token_id: int = IMAGE


def with_processor(family: str, seed: int = 0) -> VLM:
    """A tiny model that reads PIL images and words."""
    vlm = tiny(family, seed)
    _, image_processor = vlm.family.tiny()
    return VLM.of(vlm.model.requires_grad_(True), Processor(image_processor, Words()), vlm.name)


def paint(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def captioned(folder: Path, count: int = 12, sizes=SIZES) -> Path:
    """A ``captions.jsonl`` of some images beside it."""
    lines = []
    for i in range(count):
        paint(folder / "images" / f"{i}.png", sizes[i % len(sizes)], i)
        lines.append({"image": f"images/{i}.png", "caption": CAPTIONS[i % len(CAPTIONS)], "prompt": "<image> say :"})
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def trained(
    family: str, data, out: Path, rows: int = 2, vlm: VLM | None = None, progress=None, **changes
) -> TrainingResult:
    return fit(vlm or with_processor(family), data, out, replace(FEW, **changes), rows=rows, progress=progress)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]

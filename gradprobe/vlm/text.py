"""Token ids of prompts, captions and answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.vlm.captions import Example
from gradprobe.vlm.families.base import Size
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Prompt, VisionFeatures
from gradprobe.vlm.vision_features import ImageFeatures

IGNORED = -100  # the label of a token that is not predicted


@dataclass(frozen=True)
class Text:
    """Sequences with the image's placeholders in them, and the tokens to predict.

    Attributes:
        prompt: Input of the language model, answers included.
        labels: ``(B, S)``; -100 where nothing is predicted.
    """

    prompt: Prompt
    labels: Tensor

    def __getitem__(self, which: Any) -> "Text":
        p = self.prompt
        here = which.cpu() if isinstance(which, Tensor) else which
        counts = tuple(p.counts[i] for i in torch.arange(len(p.counts))[here].tolist())
        rows = (p.input_ids[which], p.attention_mask[which], p.positions[..., which, :], p.slot[which])
        return Text(Prompt(*rows, counts), self.labels[which])

    def joined(self, others: Sequence["Text"]) -> "Text":
        """Return the sequences of this and of others, padded on the right to one length."""
        every = [self, *others]
        length = max(text.labels.shape[1] for text in every)

        def padded(read: Callable[[Text], Tensor], value: int) -> Tensor:
            return torch.cat([F.pad(x, (0, length - x.shape[-1]), value=value) for x in map(read, every)], dim=-2)

        prompt = Prompt(
            padded(lambda text: text.prompt.input_ids, 0),
            padded(lambda text: text.prompt.attention_mask, 0),
            padded(lambda text: text.prompt.positions, 0),
            padded(lambda text: text.prompt.slot, -1),
            tuple(counts for text in every for counts in text.prompt.counts),
        )
        return Text(prompt, padded(lambda text: text.labels, IGNORED))


@dataclass(frozen=True)
class Target:
    """Caption of each image and, where there are some, a question and its answer.

    Attributes:
        caption: Captions.
        question: Questions; None where an image has none.
        examples: The images themselves, for what their features do not tell.
        grids: Rows and columns of the tokens of each image, see `Family.grids`.
    """

    caption: Text
    question: Text | None
    examples: tuple[Example, ...] = ()
    grids: tuple[tuple[Size, ...], ...] = ()

    def __getitem__(self, which: Any) -> "Target":
        here = which.cpu() if isinstance(which, Tensor) else which
        places = torch.arange(len(self.examples))[here].tolist() if self.examples else []
        some, grids = tuple(self.examples[i] for i in places), tuple(self.grids[i] for i in places)
        return Target(self.caption[which], None if self.question is None else self.question[which], some, grids)

    def joined(self, others: Sequence["Target"]) -> "Target":
        """Return the captions, and the questions where all have them, of this and of others."""
        asked = [target.question for target in (self, *others) if target.question is not None]
        questions = asked[0].joined(asked[1:]) if len(asked) == 1 + len(others) else None
        examples = tuple(example for target in (self, *others) for example in target.examples)
        grids = tuple(grid for target in (self, *others) for grid in target.grids)
        return Target(self.caption.joined([other.caption for other in others]), questions, examples, grids)


def target_of(vlm: VLM, examples: Sequence[Example], images: Sequence[ImageFeatures]) -> Target:
    """Tokenise captions and questions of images.

    Args:
        vlm: The model, with its processor.
        examples: One image each.
        images: Their features.
    """
    caption = _text(vlm, [(e.prompt, e.caption) for e in examples], images)
    queries = [(e.question, e.answer) for e in examples if e.question is not None and e.answer is not None]
    asked = _text(vlm, queries, images) if len(queries) == len(examples) else None
    grids = tuple(vlm.family.grids(vlm.model.config, image.inputs) for image in images)
    return Target(caption, asked, tuple(examples), grids)


def _text(vlm: VLM, pairs: Sequence[tuple[str, str]], images: Sequence[ImageFeatures]) -> Text:
    """Join prompts and answers, padded on the right to one length."""
    assert vlm.processor is not None
    tokenizer, placeholder = vlm.processor.tokenizer, vlm.processor.image_token
    written = [vlm.family.written(vlm.processor, image.inputs, len(image.slots)) for image in images]
    before = [
        tokenizer(prompt.replace(placeholder, whole, 1))["input_ids"]
        for (prompt, _), whole in zip(pairs, written, strict=True)
    ]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    after = [tokenizer(answer, add_special_tokens=False)["input_ids"] + end for _, answer in pairs]
    for (_, answer), ids in zip(pairs, after, strict=True):
        if vlm.model.config.image_token_id in ids:
            fault = f"the text {answer[:60]!r} has the model's placeholder {placeholder} in it"
            raise UsageError(f"{fault}, and there is no picture for it; leave it out")
    length = max(len(a) + len(b) for a, b in zip(before, after, strict=True))
    ids = torch.full((len(pairs), length), tokenizer.pad_token_id or 0)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (first, second) in enumerate(zip(before, after, strict=True)):
        ids[row, : len(first) + len(second)] = torch.tensor(first + second)
        labels[row, len(first) : len(first) + len(second)] = torch.tensor(second)
        mask[row, : len(first) + len(second)] = 1
    device = next(vlm.model.parameters()).device
    inputs = {"input_ids": ids, "attention_mask": mask}
    inputs |= {name: torch.stack([image.inputs[name] for image in images]) for name in images[0].inputs}
    inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    features = VisionFeatures(tuple(image.tokens for image in images), tuple(image.slots for image in images))
    return Text(vlm.prompt(inputs, features), labels.to(device, non_blocking=True))

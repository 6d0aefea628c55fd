"""What a language model reads about an image, and what it should say: prompts, captions and answers as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.vlm.captions import Example
from gradprobe.vlm.model import VLM, Prompt, Seen
from gradprobe.vlm.sights import Sight

IGNORED = -100  # the label of a token that is not predicted


@dataclass(frozen=True)
class Text:
    """Sequences with the image's placeholders in them, and the tokens that are to be predicted.

    Attributes:
        prompt: what the language model reads, answers included.
        labels: ``(B, S)``; -100 where nothing is predicted.
    """

    prompt: Prompt
    labels: Tensor

    def __getitem__(self, which: Any) -> "Text":
        p = self.prompt
        counts = tuple(p.counts[i] for i in torch.arange(len(p.counts))[_here(which)].tolist())
        rows = (p.input_ids[which], p.attention_mask[which], p.positions[..., which, :], p.slot[which])
        return Text(Prompt(*rows, counts), self.labels[which])


@dataclass(frozen=True)
class Target:
    """The caption of each image and, where there are some, a question and its answer."""

    caption: Text
    question: Text | None

    def __getitem__(self, which: Any) -> "Target":
        return Target(self.caption[which], None if self.question is None else self.question[which])


def target_of(vlm: VLM, examples: Sequence[Example], found: Sequence[Sight]) -> Target:
    """Tokenised captions and questions of images.

    Args:
        vlm: whose tokenizer and placeholders; it needs its processor.
        examples: one image each.
        found: what the vision tower made of them.
    """
    caption = _text(vlm, [(e.prompt, e.caption) for e in examples], found)
    asked = [(e.question, e.answer) for e in examples if e.question is not None and e.answer is not None]
    return Target(caption, _text(vlm, asked, found) if len(asked) == len(examples) else None)


def _text(vlm: VLM, pairs: Sequence[tuple[str, str]], found: Sequence[Sight]) -> Text:
    """Prompts with their answers, padded at the right to one length."""
    assert vlm.processor is not None
    tokenizer, image = vlm.processor.tokenizer, vlm.processor.image_token
    before = [
        tokenizer(prompt.replace(image, image * len(sight.layout), 1))["input_ids"]
        for (prompt, _), sight in zip(pairs, found, strict=True)
    ]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    after = [tokenizer(answer, add_special_tokens=False)["input_ids"] + end for _, answer in pairs]
    for (_, answer), ids in zip(pairs, after, strict=True):
        if vlm.model.config.image_token_id in ids:
            told = f"the text {answer[:60]!r} has the model's placeholder {image} in it"
            raise UsageError(f"{told}, and there is no picture for it; leave it out")
    length = max(len(a) + len(b) for a, b in zip(before, after, strict=True))
    ids = torch.full((len(pairs), length), tokenizer.pad_token_id or 0)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (first, second) in enumerate(zip(before, after, strict=True)):
        ids[row, : len(first) + len(second)] = torch.tensor(first + second)
        labels[row, len(first) : len(first) + len(second)] = torch.tensor(second)
        mask[row, : len(first) + len(second)] = 1
    device = next(vlm.model.parameters()).device
    inputs = {"input_ids": ids, "attention_mask": mask}
    for name in found[0].about:
        inputs[name] = torch.stack([sight.about[name] for sight in found])
    inputs = {name: value.to(device) for name, value in inputs.items()}
    seen = Seen(tuple(sight.tokens for sight in found), tuple(sight.layout for sight in found))
    return Text(vlm.prompt(inputs, seen), labels.to(device))


def _here(which: Any) -> Any:
    return which.cpu() if isinstance(which, Tensor) else which

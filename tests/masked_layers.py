"""The full-length reference of dropping inside a language model: nothing is dropped, keys are masked layer by layer."""

import copy
import functools
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny_vlms import made, tiny

from gradprobe.core import Noise
from gradprobe.view import Drop
from gradprobe.vlm.inside import dropping
from gradprobe.vlm.model import VLM
from gradprobe.vlm.sequence import assemble

LAYERS = 5


@functools.cache
def deep(family: str, implementation: str = "sdpa") -> VLM:
    """A tiny model of five layers."""
    vlm = tiny(family, layers=LAYERS)
    vlm.model.set_attn_implementation(implementation)
    return vlm


def eager(vlm: VLM) -> VLM:
    """The same model, which also returns its attention."""
    model = copy.deepcopy(vlm.model)
    model.set_attn_implementation("eager")
    return VLM.of(model, name=vlm.name)


def read(vlm: VLM, rows, pad: str = "left", answers: int = 0):
    """A sequence of all visual tokens, and the place of each prompt's last token; answers of 1, 2, ... words behind."""
    inputs = made(vlm, rows, "left")
    features = vlm.vision_features(inputs)
    if answers:
        inputs = inputs | answered(inputs, answers)
    prompt = vlm.prompt(inputs, features)
    images = iter(features.tokens)
    tokens = [torch.cat([torch.zeros(0, vlm.dim), *(next(images) for _ in counts)]) for counts in prompt.counts]
    with torch.no_grad():
        sequence = assemble(vlm, prompt, tokens, None, pad)
    ends = sequence.attention_mask.shape[1] - sequence.attention_mask.flip(1).argmax(1) - 1
    return sequence, ends - (torch.arange(len(rows)) + answers if answers else 0)


def answered(inputs, answers: int):
    """Ids and mask with answers behind the prompts: of ``answers`` words in row 0, one more in row 1, and so on."""
    ids, masks = [], []
    most = answers + len(inputs["input_ids"]) - 1
    for row, (words, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
        length = answers + row
        gap = torch.zeros(most - length, dtype=torch.long)
        ids.append(torch.cat([words, torch.arange(7, 7 + length), gap]))
        masks.append(torch.cat([mask, torch.ones(length, dtype=torch.long), gap]))
    both = {"input_ids": torch.stack(ids), "attention_mask": torch.stack(masks)}
    if "mm_token_type_ids" in inputs:
        kinds = torch.zeros_like(both["input_ids"])
        kinds[:, : inputs["mm_token_type_ids"].shape[1]] = inputs["mm_token_type_ids"]
        both["mm_token_type_ids"] = kinds.int()
    return both


@dataclass
class Recorded:
    """A selector whose choices are written down."""

    selector: Any
    choices: list = field(default_factory=list)

    def __call__(self, view, k):
        self.choices.append(self.selector(view, k))
        return self.choices[-1]


def recorded(stages) -> list[Drop]:
    return [Drop(layer, Recorded(selector), k) for layer, selector, k in stages]


def noise_of(sequence) -> Noise:
    return Noise(3, range(len(sequence.embeds)))


def opened(vlm, sequence, last, drops, positions="keep"):
    return dropping(vlm, sequence.slot, sequence.attention_mask, last, drops, noise_of(sequence), positions)


def gone_of(slot, numbers):
    """Visual tokens that are not among the numbers kept, ``(B, S)``."""
    kept = (slot[:, :, None] == numbers[:, None]).any(-1)
    return (slot >= 0) & ~kept


@contextmanager
def masking(vlm: VLM, sequence, drops: list[Drop], kept: list):
    """Let keys that a stage dropped be unseen from its layer on; merged tokens take the places of what they replace."""
    attended = sequence.attention_mask > 0

    def of_layer(number):
        gone, replaced = torch.zeros_like(attended), None
        for drop, numbers in zip(drops, kept, strict=True):
            if drop.layer <= number:
                gone = gone | gone_of(sequence.slot, numbers)
            if drop.layer == number and drop.selector.choices and drop.selector.choices[-1].tokens is not None:
                replaced = numbers, drop.selector.choices[-1].tokens

        def before(module, args, kwargs):
            (hidden,) = args
            copies = len(hidden) // len(attended)
            cache = kwargs.get("cache", kwargs.get("past_key_values"))
            past = 0 if cache is None else cache.get_seq_length(number)
            if replaced is not None and not past:
                hidden = hidden.clone()
                for row in range(len(hidden)):
                    for number_, token in zip(*(each[row // copies] for each in replaced), strict=True):
                        hidden[row, sequence.slot[row // copies] == number_] = token
            length = hidden.shape[1]
            seen = (attended & ~gone).repeat_interleave(copies, 0)
            seen = torch.cat([seen, seen.new_ones(len(seen), past + length - seen.shape[1])], 1)
            queries = torch.arange(past, past + length)[:, None]
            keys = torch.arange(past + length)
            allowed = (keys <= queries) & seen[:, None] | (keys == queries)  # a row that sees nothing sees itself
            mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
            return (hidden,), kwargs | {"attention_mask": mask[:, None]}

        return before

    layers = vlm.family.language(vlm.model).layers
    hooks = [layer.register_forward_pre_hook(of_layer(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def generated(vlm, sequence, **options):
    with torch.no_grad(), vlm.running(), vlm.reading(sequence):
        return vlm.model.generate(
            inputs_embeds=sequence.embeds,
            attention_mask=sequence.attention_mask,
            position_ids=sequence.positions,
            use_cache=True,
            **options,
        )

"""Tiny random vision-language models of every family, and inputs as their processors would make them."""

import functools
import inspect
from collections.abc import Sequence

import torch

from gradprobe.operators.registry import part
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.families import FAMILIES as KNOWN
from gradprobe.vlm.families import family_of
from gradprobe.vlm.families.base import TINY_TOKEN as IMAGE
from gradprobe.vlm.families.base import Layout
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner

FAMILIES = tuple(KNOWN)
SPEC = "mlp:width=8"  # of the scorer of `pruner`
PAD, BOS = 0, 1
SIZES = ((28, 28), (56, 40), (20, 90))  # height and width of pictures; a LLaVA sees squares whatever they are


def tiny(family: str, seed: int = 0, layers: int = 2) -> VLM:
    """A model of a family with random parameters, large enough that attention is far from uniform; no processor."""
    from transformers import AutoModelForImageTextToText

    config, _ = family_of(family, family).tiny()
    config.text_config.num_hidden_layers = layers
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = ["full_attention"] * layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name and "lm_head" not in name:
                parameter.data.mul_(4)
            if "embed_tokens" in name or "lm_head" in name:
                parameter.data.mul_(20)
    return VLM.of(model.eval(), name=f"tiny-{family}")


@functools.cache
def shared(family: str) -> VLM:
    """One model for the tests that do not change it."""
    return tiny(family)


def pruner(family: str, budget: Budget = Budget(k=5)) -> Pruner:  # noqa: B008 (frozen)
    """The shared model of a family with a scorer of random parameters."""
    vlm = shared(family)
    return Pruner(vlm, part("scorer", SPEC).make(vlm.dim, 3), budget)


def made(vlm: VLM, rows: Sequence[Sequence[int]], pad: str = "left", seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs as a processor returns them: text of random ids, with images in it.

    Args:
        vlm: Of any family.
        rows: For each row the sizes of its images, as places in `SIZES`; rows have different lengths of text.
        pad: Side on which shorter rows are padded.
        seed: Of the pixels and words.
    """
    generator = torch.Generator().manual_seed(seed)
    rows_of_ids = []
    for number, sizes in enumerate(rows):
        ids = [BOS, *_words(3 + 2 * number, generator)]
        for layout in _layouts(vlm, sizes):
            ids += [IMAGE] * layout.placeholders + _words(2, generator)
        rows_of_ids.append(ids + _words(4, generator))
    longest = max(map(len, rows_of_ids))
    padded, masks = [], []
    for ids in rows_of_ids:
        gap, ones = [PAD] * (longest - len(ids)), [1] * len(ids)
        padded.append(gap + ids if pad == "left" else ids + gap)
        masks.append(gap + ones if pad == "left" else ones + gap)
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(masks)}
    images = _drawn(vlm, _layouts(vlm, [size for sizes in rows for size in sizes]), seed)
    return inputs | images | types_of(vlm, inputs["input_ids"])


def row_of(inputs: dict[str, torch.Tensor], rows: Sequence[Sequence[int]], vlm: VLM, row: int) -> dict:
    """One row of inputs alone, without padding."""
    real = inputs["attention_mask"][row] > 0
    alone = {"input_ids": inputs["input_ids"][row][real][None]}
    alone["attention_mask"] = torch.ones_like(alone["input_ids"])
    first, last = sum(map(len, rows[:row])), sum(map(len, rows[: row + 1]))
    if first < last:
        pixels, *others = vlm.family.inputs
        layouts = _layouts(vlm, [size for sizes in rows for size in sizes])
        begin, end = (sum(len(_drawn(vlm, [each])[pixels]) for each in layouts[:image]) for image in (first, last))
        alone[pixels] = inputs[pixels][begin:end]
        alone |= {name: inputs[name][first:last] for name in others if name in inputs}
    return alone | types_of(vlm, alone["input_ids"])


def types_of(vlm: VLM, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The kind of each token, where the model reads it."""
    reads = "mm_token_type_ids" in inspect.signature(vlm.model.forward).parameters
    return {"mm_token_type_ids": (ids == IMAGE).int()} if reads else {}


def _layouts(vlm: VLM, sizes: Sequence[int]) -> list[Layout]:
    return [vlm.family.layout(vlm.model.config, SIZES[size]) for size in sizes]


def _drawn(vlm: VLM, layouts: list[Layout], seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return vlm.family.random_inputs(vlm.model.config, layouts) if layouts else {}


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(2, 60, (count,), generator=generator).tolist()

"""Tiny random vision-language models of every family, and inputs as their processors would make them."""

import functools
import inspect
from collections.abc import Sequence

import pytest
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
ATTENDING = tuple(family for family in KNOWN if family != "qwen3_5")  # in all layers: keys can be masked
PATCHES = tuple(family for family in KNOWN if family.startswith(("qwen", "glm")))  # positions have three axes
BY_TOWER = ("class-attention", "mean-attention", "visionzip", "holov", "prunesid", "hired")  # selectors
WORDED = ("idefics3", "smolvlm")  # words stand between the tiles of a picture
SIBLINGS = ("qwen2_vl", "qwen3_vl_moe", "glm4v_moe", "smolvlm")  # the code of another family, which every run tests
READING = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl")  # newlines, three axes, streams: for slow trainings
SPEC = "mlp:width=8"  # of the scorer of `pruner`
PAD, BOS = 0, 1
SIZES = ((28, 28), (56, 40), (20, 90))  # height and width of pictures; a LLaVA sees squares whatever they are


def over(families: Sequence[str] = FAMILIES):
    """Parametrise a test over families: siblings of others run with the slow tests (all run in test_vlm_families)."""
    marked = [pytest.param(each, marks=pytest.mark.slow) if each in SIBLINGS else each for each in families]
    return pytest.mark.parametrize("family", marked)


def tiny(family: str, seed: int = 0, layers: int = 2) -> VLM:
    """A model of a family with random parameters, large enough that attention is far from uniform; no processor."""
    from transformers import AutoModelForImageTextToText

    config, _ = family_of(family, family).tiny()
    config.text_config.num_hidden_layers = layers
    if kinds := getattr(config.text_config, "layer_types", None):
        linear = "linear_attention" in kinds
        config.text_config.layer_types = ["full_attention" if i % 2 or not linear else kinds[0] for i in range(layers)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        if "moe" in family:
            model.set_experts_implementation("eager")  # torch counts no grouped products
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name and "lm_head" not in name:
                parameter.data.mul_(4)
            if "embed_tokens" in name or "lm_head" in name:
                parameter.data.mul_(20)
            if name.endswith("post_layernorm.weight"):  # else all visual tokens have one length
                parameter.data.uniform_(0.5, 1.5)
    return VLM.of(model.eval(), name=f"tiny-{family}")


def not_told(family: str, selector: str) -> bool:
    """Return whether a selector is refused: the attention that a tower pays to single tokens cannot always be told."""
    kind = selector.partition(":")[0]
    if family == "llava_onevision":  # no class token
        return kind in BY_TOWER and "mean" not in selector
    return family not in ("llava", "llava_next") and (kind in BY_TOWER or selector == "zoo:exact")


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
            ids += placed(vlm, layout) + _words(2, generator)
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


def placed(vlm: VLM, layout: Layout) -> list[int]:
    """Ids of a picture in a prompt: its placeholders and, in some families, words before each tile and at the end."""
    if vlm.family.name not in WORDED:
        return [IMAGE] * layout.placeholders
    *tiles, overview = ([IMAGE] * (rows * columns) for rows, columns in layout.grids)
    mark, place, whole = IMAGE + 1, IMAGE + 2, IMAGE + 3
    return [each for tile in tiles for each in (mark, place, *tile)] + [mark, whole, *overview, mark]


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

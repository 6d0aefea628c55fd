"""Tiny random vision-language models of every family, and inputs as their processors would make them."""

import functools
from collections.abc import Sequence

import torch

from gradprobe.vlm.model import VLM

FAMILIES = ("llava", "llava_next", "qwen2_5_vl")
IMAGE, PAD, BOS, START, END, VOCABULARY = 60, 0, 1, 61, 62, 64
TEXT = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"vocab_size": VOCABULARY, "max_position_embeddings": 512, "num_key_value_heads": 2}
TEXT |= {"bos_token_id": BOS, "eos_token_id": None, "pad_token_id": PAD}
CLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 7}


def tiny(family: str, seed: int = 0) -> VLM:
    """A model of a family with random parameters, large enough that attention is far from uniform; no processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name and "lm_head" not in name:
                parameter.data.mul_(4)
            if "embed_tokens" in name or "lm_head" in name:
                parameter.data.mul_(20)
    return VLM.of(model.eval(), name=f"tiny-{family}")


def _model(family: str):
    import transformers as hf

    if family == "llava":
        vision = hf.CLIPVisionConfig(**CLIP, image_size=28)
        return hf.LlavaForConditionalGeneration(
            hf.LlavaConfig(vision_config=vision, text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE)
        )
    if family == "llava_next":
        vision = hf.CLIPVisionConfig(**CLIP, image_size=28)
        grid = [[28, 56], [56, 28], [56, 56], [28, 84]]
        text = hf.MistralConfig(**TEXT, sliding_window=None)
        return hf.LlavaNextForConditionalGeneration(
            hf.LlavaNextConfig(
                vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=grid
            )
        )
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 48}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    text = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}
    tokens = {"image_token_id": IMAGE, "video_token_id": 63, "vision_start_token_id": START, "vision_end_token_id": END}
    return hf.Qwen2_5_VLForConditionalGeneration(hf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **tokens))


@functools.cache
def shared(family: str) -> VLM:
    """One model for the tests that do not change it."""
    return tiny(family)


SIZES = ((28, 28), (56, 40), (20, 90))  # height and width of pictures; a LLaVA sees squares whatever they are


def made(vlm: VLM, rows: Sequence[Sequence[int]], pad: str = "left", seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs as a processor returns them: text of random ids, with images in it.

    Args:
        vlm: of which family.
        rows: for each row the sizes of its images, as places in `SIZES`; rows have different lengths of text.
        pad: on which side shorter rows are padded.
        seed: of the pixels and words.
    """
    generator = torch.Generator().manual_seed(seed)
    family = vlm.family.name
    rows_of_ids, images = [], []
    for number, sizes in enumerate(rows):
        ids = [BOS, *_words(3 + 2 * number, generator)]
        for size in sizes:
            image, places = _image(vlm, SIZES[size], generator)
            images.append(image)
            ids += [START] * (family == "qwen2_5_vl") + [IMAGE] * places + [END] * (family == "qwen2_5_vl")
            ids += _words(2, generator)
        rows_of_ids.append(ids + _words(4, generator))
    longest = max(map(len, rows_of_ids))
    padded, masks = [], []
    for ids in rows_of_ids:
        gap, ones = [PAD] * (longest - len(ids)), [1] * len(ids)
        padded.append(gap + ids if pad == "left" else ids + gap)
        masks.append(gap + ones if pad == "left" else ones + gap)
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(masks)}
    return inputs | _joined(family, images) | _types(family, inputs["input_ids"])


def row_of(inputs: dict[str, torch.Tensor], rows: Sequence[Sequence[int]], vlm: VLM, row: int) -> dict:
    """One row of inputs alone, without padding."""
    real = inputs["attention_mask"][row] > 0
    alone = {"input_ids": inputs["input_ids"][row][real][None]}
    alone["attention_mask"] = torch.ones_like(alone["input_ids"])
    first, count = sum(map(len, rows[:row])), len(rows[row])
    for name in ("pixel_values", "image_sizes", "image_grid_thw"):
        if name in inputs and count:
            if name == "pixel_values" and vlm.family.name == "qwen2_5_vl":
                ends = [0, *inputs["image_grid_thw"].prod(-1).cumsum(0).tolist()]
                alone[name] = inputs[name][ends[first] : ends[first + count]]
            else:
                alone[name] = inputs[name][first : first + count]
    return alone | _types(vlm.family.name, alone["input_ids"])


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(2, 60, (count,), generator=generator).tolist()


def _types(family: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"mm_token_type_ids": (ids == IMAGE).int()} if family == "qwen2_5_vl" else {}


def _image(vlm: VLM, size: tuple[int, int], generator: torch.Generator):
    """The pixels of one picture, and how many placeholders it has."""
    height, width = size
    if vlm.family.name == "llava":
        return torch.randn(3, 28, 28, generator=generator), 16
    if vlm.family.name == "llava_next":
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = vlm.model.config
        tiles = image_size_to_num_patches([height, width], config.image_grid_pinpoints, 28)
        pixels = torch.randn(tiles, 3, 28, 28, generator=generator)
        sizes = torch.tensor([[height, width]])
        with torch.no_grad():  # the processor's formula is the model's own packing
            packed = vlm.model.model.get_image_features(pixels[None], sizes, return_dict=True).pooler_output[0]
        return (pixels, sizes), len(packed)
    grid = torch.tensor([[1, 2 * round(height / 8), 2 * round(width / 8)]])
    pixels = torch.randn(int(grid.prod()), 3 * 2 * 16, generator=generator)
    return (pixels, grid), int(grid.prod()) // 4


def _joined(family: str, images: list) -> dict[str, torch.Tensor]:
    if not images:
        return {}
    if family == "llava":
        return {"pixel_values": torch.stack(images)}
    pixels, sizes = zip(*images, strict=True)
    if family == "qwen2_5_vl":
        return {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(sizes)}
    most = max(map(len, pixels))
    padded = [torch.cat([p, torch.zeros(most - len(p), *p.shape[1:])]) for p in pixels]
    return {"pixel_values": torch.stack(padded), "image_sizes": torch.cat(sizes)}

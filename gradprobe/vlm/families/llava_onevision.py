"""LLaVA-OneVision: an overview and up to nine tiles as LLaVA-NeXT, or several pictures of one tile each."""

from collections.abc import Mapping, Sequence
from math import isqrt, sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import IMAGE, TINY_TEXT, TINY_TOKEN, Layout, Size, View
from gradprobe.vlm.families.llava import Llava
from gradprobe.vlm.families.llava_next import random_tiles, unpadded_layout, unpadded_views

_QWEN_7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}
_TINY_SIGLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 7,
    "image_size": 28,
    "vision_use_head": False,
}


class LlavaOnevision(Llava):
    """``LlavaOnevisionForConditionalGeneration``: SigLIP tower, N differs with the picture's size and its company.

    The only picture of a prompt is an overview and tiles whose lines end in a newline, as LLaVA-NeXT's; each of several
    is one tile, with a newline at its end. Newlines are no visual tokens and are never pruned. Videos are refused, and
    so are pictures of more tiles than nine: behind the projector the model blends neighbouring tokens of these, so that
    what the language model reads is none of the tokens before it.

    Source: Li et al., LLaVA-OneVision, 2024.
    """

    name = "llava_onevision"
    inputs = ("pixel_values", "image_sizes", "batch_num_images")
    published: ClassVar = {  # SigLIP so400m at 384 px, without its last layer, is the default
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": {"text_config": _QWEN_7B},
    }

    def newline(self, model: Any) -> Tensor:
        """Return the learned newline, already of the width of the language model."""
        return model.model.image_newline

    def positions(self, model: Any, input_ids: Tensor, attention_mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if inputs.get("pixel_values_videos") is not None:
            raise UsageError("videos are not pruned: give images only (pixel_values, image_sizes)")
        return super().positions(model, input_ids, attention_mask, inputs)

    def lengths(self, config: Any, inputs: Mapping[str, Any], parts: Sequence[int]) -> Sequence[int]:
        """Return the parts, one a picture.

        Raises:
            UsageError: The model blends the tokens of one.
        """
        for each in self.inputs_of_each(config, inputs, parts):
            self.grids(config, each)
        return parts

    def inputs_of_each(self, config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return size and number of pictures in the prompt of each picture."""
        sizes = torch.as_tensor(inputs["image_sizes"])
        counts = inputs.get("batch_num_images")
        counts = torch.ones(len(lengths), dtype=torch.long) if counts is None else torch.as_tensor(counts)
        together = counts.repeat_interleave(counts)
        return [{"image_sizes": sizes[i], "batch_num_images": together[i]} for i in range(len(lengths))]

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the layout of the only picture of a prompt.

        Raises:
            UsageError: The model blends its tokens.
        """
        layout, (height, width) = unpadded_layout(config, size), size or IMAGE
        (across, _), (rows, columns) = layout.grids
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        if sqrt(rows * columns / (most * across**2)) > 1.1:  # the model's own rule
            side = config.vision_config.image_size * isqrt(most)
            raise UsageError(
                f"a picture of {height} x {width} has {layout.tiles - 1} tiles, and of more than {most} the model "
                "blends neighbouring visual tokens behind its projector, which cannot be pruned one by one; give at "
                f"most {side} x {side} pixels: image.thumbnail(({side}, {side}))"
            )
        return layout

    def grids(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[Size, ...]:
        """Return the grid of the overview and that of the tiles laid together, or of the one tile."""
        height, width = torch.as_tensor(inputs["image_sizes"]).tolist()
        if int(inputs["batch_num_images"]) > 1:
            return unpadded_layout(config, (height, width)).grids[:1]
        return self.layout(config, (height, width)).grids

    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        """Draw as many tiles an image as the largest has; those beyond an image's own are 0."""
        return random_tiles(config, layouts)

    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        """Return the overview, and the tiles laid together, as far as tokens cover them."""
        height, width = inputs["image_sizes"][0].tolist()
        return unpadded_views(config, inputs["pixel_values"][0], self.layout(config, (height, width)))

    def tiny(self) -> tuple[Any, Any]:
        from transformers import LlavaOnevisionConfig, LlavaOnevisionImageProcessor, Qwen2Config, SiglipVisionConfig

        vision = SiglipVisionConfig(**_TINY_SIGLIP)
        grids = [[28, 56], [56, 28], [56, 56], [28, 84]]
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(**TINY_TEXT),
            image_token_index=TINY_TOKEN,
            video_token_index=TINY_TOKEN + 1,
            image_grid_pinpoints=grids,
        )
        size = {"height": 28, "width": 28}
        return config, LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grids)

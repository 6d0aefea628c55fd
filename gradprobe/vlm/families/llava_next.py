"""LLaVA-NeXT: the whole picture and its tiles; padding of the tiles is cut away, and lines end in a newline."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradprobe.vlm.families.base import IMAGE, TINY_TEXT, TINY_TOKEN, Layout, Size, View
from gradprobe.vlm.families.llava import TINY_CLIP, TINY_SQUARE, VICUNA_7B, Llava, square_of

_MISTRAL_7B = VICUNA_7B | {
    "model_type": "mistral",
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


class LlavaNext(Llava):
    """``LlavaNextForConditionalGeneration``: N differs with the picture's size and counts the tokens of all its tiles.

    A newline embedding ends each line of the tiles; it is no visual token and is never pruned.

    Source: Liu et al., LLaVA-NeXT, 2024 (any resolution).
    """

    name = "llava_next"
    published: ClassVar = {
        "llava-hf/llava-v1.6-vicuna-7b-hf": {"text_config": VICUNA_7B},
        "llava-hf/llava-v1.6-mistral-7b-hf": {"text_config": _MISTRAL_7B},
    }

    def newline(self, model: Any) -> Tensor:
        """Return the learned newline, already of the width of the language model."""
        return model.model.image_newline

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return an overview and the tiles of the best fitting grid, without the padding around the picture."""
        return unpadded_layout(config, size)

    def grids(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[Size, ...]:
        """Return the grid of the overview, and that of the tiles laid together without padding."""
        height, width = torch.as_tensor(inputs["image_sizes"]).tolist()
        return self.layout(config, (height, width)).grids

    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        """Draw as many tiles an image as the largest has; those beyond an image's own are 0."""
        return random_tiles(config, layouts)

    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        """Return the overview, and the tiles laid together, as far as tokens cover them."""
        height, width = inputs["image_sizes"][0].tolist()
        return unpadded_views(config, inputs["pixel_values"][0], self.layout(config, (height, width)))

    def tiny(self) -> tuple[Any, Any]:
        from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextImageProcessor, MistralConfig

        vision, text = CLIPVisionConfig(**TINY_CLIP), MistralConfig(**TINY_TEXT, sliding_window=None)
        grids = [[28, 56], [56, 28], [56, 56], [28, 84]]
        config = LlavaNextConfig(
            vision_config=vision, text_config=text, image_token_index=TINY_TOKEN, image_grid_pinpoints=grids
        )
        return config, LlavaNextImageProcessor(**TINY_SQUARE, image_grid_pinpoints=grids)


def unpadded_layout(config: Any, size: Size | None) -> Layout:
    """Return an overview and the tiles of the best fitting grid, whose lines end in newlines, without padding."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    size, (side, across, class_tokens) = size or IMAGE, square_of(config)
    high, wide = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, side)
    rows, columns = unpad_image(torch.empty(1, high * across, wide * across), size).shape[1:]
    grids = ((across, across), (rows, columns))
    return Layout(size, (high * side, wide * side), 1 + high * wide, across**2, class_tokens, grids, rows)


def random_tiles(config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
    """Draw as many tiles an image as the largest has, and the sizes of the images."""
    side = config.vision_config.image_size
    pixels = torch.zeros(len(layouts), max(layout.tiles for layout in layouts), 3, side, side)
    for tiles, layout in zip(pixels, layouts, strict=True):
        tiles[: layout.tiles].normal_()
    return {"pixel_values": pixels, "image_sizes": torch.tensor([layout.size for layout in layouts])}


def unpadded_views(config: Any, pictures: Tensor, layout: Layout) -> tuple[View, ...]:
    """Return the overview of an image ``(T, 3, H, W)``, and its tiles laid together, as far as tokens cover them."""
    overview, *tiles = pictures
    high, wide = (length // overview.shape[-1] for length in layout.seen)
    lines = [torch.cat(tiles[row * wide : (row + 1) * wide], -1) for row in range(high)]
    rows, columns = (length * config.vision_config.patch_size for length in layout.grids[1])
    top, left = (layout.seen[0] - rows) // 2, (layout.seen[1] - columns) // 2
    detail = torch.cat(lines, 1)[:, top : top + rows, left : left + columns]
    return View("overview", overview, layout.grids[0]), View("tiles", detail, layout.grids[1])

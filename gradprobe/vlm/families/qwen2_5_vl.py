"""Qwen2.5-VL: four patches make a token, the tower works in windows, and positions are time, height and width."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import (
    IMAGE,
    TINY_TEXT,
    TINY_TOKEN,
    Family,
    Layout,
    Size,
    View,
    attended_positions,
)

PIXELS = (56 * 56, 12_845_056)  # least and most that the processor keeps of an image, by its files on the hub
_QWEN_3B = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
_QWEN_7B = _QWEN_3B | {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_VIT = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16}


class Qwen25VL(Family):
    """``Qwen2_5_VLForConditionalGeneration``: N differs with the picture's size.

    The unit of pruning is the token, a group of 2 x 2 patches (D = 4 x 1280), in raster order although the tower hands
    them out window by window. Videos are refused.

    Source: Bai et al., Qwen2.5-VL Technical Report, 2025.
    """

    name = "qwen2_5_vl"
    inputs = ("pixel_values", "image_grid_thw")
    published: ClassVar = {
        "Qwen/Qwen2.5-VL-3B-Instruct": {
            "text_config": _QWEN_3B,
            "vision_config": _VIT | {"out_hidden_size": 2048},
            "tie_word_embeddings": True,
        },
        "Qwen/Qwen2.5-VL-7B-Instruct": {"text_config": _QWEN_7B, "vision_config": _VIT | {"out_hidden_size": 3584}},
    }

    def projector(self, model: Any) -> nn.Module:
        """Return the merger: normalised groups of four patches through two linear layers."""
        return model.model.visual.merger

    def tower(self, model: Any) -> nn.Module:
        return model.model.visual

    def group(self, model: Any) -> int:
        return model.config.vision_config.spatial_merge_size**2

    def dim(self, model: Any) -> int:
        return model.model.visual.merger.hidden_size

    def positions(self, model: Any, input_ids: Tensor, attention_mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Return time, height and width ``(3, B, S)``; text after an image goes on from the largest of them.

        The model itself falls silently back to plain positions without the processor's ``mm_token_type_ids``; here they
        are derived from the placeholders.
        """
        if inputs.get("pixel_values_videos") is not None:
            raise UsageError("videos are not pruned: give images only (pixel_values, image_grid_thw)")
        grid = inputs.get("image_grid_thw")
        if grid is None or len(grid) == 0:
            return attended_positions(attention_mask).expand(3, -1, -1)
        types = (input_ids == model.config.image_token_id).long()
        grid = grid.to(input_ids.device)
        return model.model.get_rope_index(input_ids, types, image_grid_thw=grid, attention_mask=attention_mask)[0]

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the image's own size in multiples of a token, and the windows of the tower's attention."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        vision, size = config.vision_config, size or IMAGE
        side, per = vision.patch_size * vision.spatial_merge_size, vision.spatial_merge_size**2
        seen = smart_resize(*size, factor=side, min_pixels=PIXELS[0], max_pixels=PIXELS[1])
        rows, columns = (length // side for length in seen)
        window = vision.window_size // side
        corners = product(range(0, rows, window), range(0, columns, window))
        windows = tuple(per * min(window, rows - i) * min(window, columns - j) for i, j in corners)
        return Layout(size, seen, 1, per * rows * columns, 0, ((rows, columns),), 0, windows)

    def grids(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[Size, ...]:
        """Return the grid of groups of patches."""
        _, height, width = torch.as_tensor(inputs["image_grid_thw"]).tolist()
        side = config.vision_config.spatial_merge_size
        return ((height // side, width // side),)

    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        """Draw the patches of all images, one below the other, and the grid of each."""
        vision = config.vision_config
        grids = [[1, *(length // vision.patch_size for length in layout.seen)] for layout in layouts]
        width = 3 * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.randn(sum(layout.patches for layout in layouts), width)
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}

    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        """Return the patches ``(P, 3 t h w)``, which come group by group, laid together."""
        vision, (frames, height, width) = config.vision_config, inputs["image_grid_thw"][0].tolist()
        side, group = vision.patch_size, vision.spatial_merge_size
        rows, columns = height // group, width // group
        shape = (frames, rows, columns, group, group, 3, vision.temporal_patch_size, side, side)
        first = inputs["pixel_values"].reshape(shape)[0, ..., 0, :, :]
        return (View("", first.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, height * side, width * side), (rows, columns)),)

    def vision_pairs(self, config: Any, layout: Layout) -> int:
        """Count whole attention in some layers and windows in the others."""
        depth = config.vision_config.depth
        whole = sum(layer < depth for layer in config.vision_config.fullatt_block_indexes)
        return whole * layout.patches**2 + (depth - whole) * sum(window**2 for window in layout.windows)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen2_5_VLConfig, Qwen2VLImageProcessor

        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 48,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        }
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
        config = Qwen2_5_VLConfig(
            vision_config=vision,
            text_config={**TINY_TEXT, "rope_parameters": rope},
            image_token_id=TINY_TOKEN,
            video_token_id=63,
            vision_start_token_id=61,
            vision_end_token_id=62,
        )
        return config, Qwen2VLImageProcessor(
            patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 64 * 64}
        )

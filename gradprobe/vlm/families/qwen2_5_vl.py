"""Qwen2.5-VL: four patches make a token, the tower works in windows, and positions are time, height and width."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import Family, attended_positions


class Qwen25VL(Family):
    """``Qwen2_5_VLForConditionalGeneration``: N differs with the picture's size.

    The unit of pruning is the token, a group of 2 x 2 patches (D = 4 x 1280), in raster order although the tower hands
    them out window by window. Videos are refused.

    Source: Bai et al., Qwen2.5-VL Technical Report, 2025.
    """

    name = "qwen2_5_vl"
    inputs = ("pixel_values", "image_grid_thw")
    axes = 3

    def projector(self, model: Any) -> nn.Module:
        """The merger: normalised groups of four patches through two linear layers."""
        return model.model.visual.merger

    def tower(self, model: Any) -> nn.Module:
        """The vision transformer, merger included."""
        return model.model.visual

    def group(self, model: Any) -> int:
        """Four patches."""
        return model.config.vision_config.spatial_merge_size**2

    def dim(self, model: Any) -> int:
        """Four times the width of a patch."""
        return model.model.visual.merger.hidden_size

    def positions(self, model: Any, input_ids: Tensor, attention_mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Time, height and width ``(3, B, S)``; after an image text goes on from the largest of them.

        The model itself falls silently back to plain positions where the processor's ``mm_token_type_ids`` are not
        handed on; here they are derived from the placeholders.
        """
        if inputs.get("pixel_values_videos") is not None:
            raise UsageError("videos are not pruned: give images only (pixel_values, image_grid_thw)")
        grid = inputs.get("image_grid_thw")
        if grid is None or len(grid) == 0:
            return attended_positions(attention_mask).expand(3, -1, -1)
        types = (input_ids == model.config.image_token_id).long()
        grid = grid.to(input_ids.device)
        return model.model.get_rope_index(input_ids, types, image_grid_thw=grid, attention_mask=attention_mask)[0]

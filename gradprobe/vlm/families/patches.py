"""Families whose tower merges groups of patches: an image keeps its shape, positions are time, height and width."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import IMAGE, TINY_TOKEN, Family, Layout, Size, View, attended_positions

PIXELS = (56 * 56, 12_845_056)  # least and most that a processor keeps of an image: Qwen2-VL's, by its files on the hub
TINY_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
TINY_TOWER: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4}
TINY_TOKENS: dict[str, Any] = {"image_token_id": TINY_TOKEN, "video_token_id": 63}
TINY_MARKS: dict[str, Any] = {"vision_start_token_id": 61, "vision_end_token_id": 62}


class Patches(Family):
    """Base of Qwen's and GLM's families: N differs with the picture's size, and 2 x 2 patches make a token.

    The unit of pruning is the token, in raster order; where the projector does the merging, a token before it is its
    four patches side by side. Qwen's mergers normalise each patch first and so undo the throttle ``scale``; noise,
    ``mean`` and a bias on keys are not undone. Videos are refused.
    """

    inputs = ("pixel_values", "image_grid_thw")
    pixels: ClassVar[tuple[int, int]] = PIXELS

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

        The model itself asks for the processor's ``mm_token_type_ids``; here they are derived from the placeholders.
        """
        if inputs.get("pixel_values_videos") is not None:
            raise UsageError("videos are not pruned: give images only (pixel_values, image_grid_thw)")
        grid = inputs.get("image_grid_thw")
        if grid is None or len(grid) == 0:
            return attended_positions(attention_mask).expand(3, -1, -1)
        types = (input_ids == model.config.image_token_id).long()
        grid = grid.to(input_ids.device)
        return model.model.get_rope_index(input_ids, types, image_grid_thw=grid, attention_mask=attention_mask)[0]

    def resized(self, config: Any, size: Size) -> Size:
        """Return the size that the processor gives an image: its shape in multiples of a token, within `pixels`."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        least, most = self.pixels
        return smart_resize(*size, factor=_side(config), min_pixels=least, max_pixels=most)

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the image's own size in multiples of a token."""
        size = size or IMAGE
        seen = self.resized(config, size)
        rows, columns = (length // _side(config) for length in seen)
        patches = config.vision_config.spatial_merge_size**2 * rows * columns
        return Layout(size, seen, 1, patches, 0, ((rows, columns),), 0)

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


def _side(config: Any) -> int:
    """Return the pixels along a side of a token."""
    return config.vision_config.patch_size * config.vision_config.spatial_merge_size

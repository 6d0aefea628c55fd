"""LLaVA-1.5: one picture, one square of tokens; class token dropped, layer and strategy by the model's config."""

from typing import Any

from torch import nn

from gradprobe.vlm.families.base import Family


class Llava(Family):
    """``LlavaForConditionalGeneration``: CLIP or SigLIP tower, two-layer projector, N equal for all images.

    Source: Liu et al., Improved Baselines with Visual Instruction Tuning, 2024.
    """

    name = "llava"
    inputs = ("pixel_values", "image_sizes")

    def projector(self, model: Any) -> nn.Module:
        """Linear, GELU, linear."""
        return model.model.multi_modal_projector

    def tower(self, model: Any) -> nn.Module:
        """The vision transformer."""
        return model.model.vision_tower

    def dim(self, model: Any) -> int:
        """Width of the tower, times the number of layers whose features are joined."""
        return model.model.multi_modal_projector.linear_1.in_features

"""LLaVA-1.5: one picture, one square of tokens; class token dropped, layer and strategy by the model's config."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import TINY_TEXT, TINY_TOKEN, Family, Layout, Size, View

VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
_VICUNA_13B = VICUNA_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
TINY_CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 7,
    "image_size": 28,
}
TINY_SQUARE: dict[str, Any] = {
    "size": {"shortest_edge": 28},
    "crop_size": {"height": 28, "width": 28},
}  # of an image processor


class Llava(Family):
    """``LlavaForConditionalGeneration``: CLIP or SigLIP tower, two-layer projector, N equal for all images.

    Source: Liu et al., Improved Baselines with Visual Instruction Tuning, 2024.
    """

    name = "llava"
    inputs: tuple[str, ...] = ("pixel_values", "image_sizes")
    published: ClassVar = {  # CLIP ViT-L/14 at 336 px is the default
        "llava-hf/llava-1.5-7b-hf": {"text_config": VICUNA_7B},
        "llava-hf/llava-1.5-13b-hf": {"text_config": _VICUNA_13B},
    }

    def projector(self, model: Any) -> nn.Module:
        return model.model.multi_modal_projector

    def tower(self, model: Any) -> nn.Module:
        return model.model.vision_tower

    def dim(self, model: Any) -> int:
        """Return the width of the tower, times the number of layers whose features are joined."""
        return model.model.multi_modal_projector.linear_1.in_features

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the one layout of all images, which are resized to the tower's square."""
        side, across, class_tokens = square_of(config)
        return Layout(size or (side, side), (side, side), 1, across**2, class_tokens, ((across, across),), 0)

    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(len(layouts), 3, *layouts[0].seen)}

    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        return (View("", inputs["pixel_values"][0], self.layout(config).grids[0]),)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig

        vision, text = CLIPVisionConfig(**TINY_CLIP), LlamaConfig(**TINY_TEXT)
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=TINY_TOKEN)
        return config, CLIPImageProcessor(**TINY_SQUARE)


def square_of(config: Any) -> tuple[int, int, int]:
    """Return pixels and patches along a side of the tower's square, and the number of its class tokens."""
    vision = config.vision_config
    class_tokens = int(config.vision_feature_select_strategy == "default")
    if not class_tokens and vision.model_type == "clip_vision_model":
        raise UsageError("a vision tower that hands on its class token is not known here; only 'default' selection is")
    return vision.image_size, vision.image_size // vision.patch_size, class_tokens

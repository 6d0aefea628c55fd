"""Qwen2.5-VL: four patches make a token, the tower works in windows, and positions are time, height and width."""

from dataclasses import replace
from itertools import product
from typing import Any, ClassVar

from gradprobe.vlm.families.base import TINY_TEXT, Layout, Size
from gradprobe.vlm.families.patches import TINY_MARKS, TINY_ROPE, TINY_TOKENS, TINY_TOWER, Patches

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


class Qwen25VL(Patches):
    """``Qwen2_5_VLForConditionalGeneration``: a token is a group of 2 x 2 patches (D = 4 x 1280).

    Tokens are in raster order although the tower hands them out window by window.

    Source: Bai et al., Qwen2.5-VL Technical Report, 2025.
    """

    name = "qwen2_5_vl"
    published: ClassVar = {
        "Qwen/Qwen2.5-VL-3B-Instruct": {
            "text_config": _QWEN_3B,
            "vision_config": _VIT | {"out_hidden_size": 2048},
            "tie_word_embeddings": True,
        },
        "Qwen/Qwen2.5-VL-7B-Instruct": {"text_config": _QWEN_7B, "vision_config": _VIT | {"out_hidden_size": 3584}},
    }

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the image's own size in multiples of a token, and the windows of the tower's attention."""
        layout, vision = super().layout(config, size), config.vision_config
        (rows, columns), per = layout.grids[0], vision.spatial_merge_size**2
        window = vision.window_size // (vision.patch_size * vision.spatial_merge_size)
        corners = product(range(0, rows, window), range(0, columns, window))
        windows = tuple(per * min(window, rows - i) * min(window, columns - j) for i, j in corners)
        return replace(layout, windows=windows)

    def vision_pairs(self, config: Any, layout: Layout) -> int:
        """Count whole attention in some layers and windows in the others."""
        depth = config.vision_config.depth
        whole = sum(layer < depth for layer in config.vision_config.fullatt_block_indexes)
        return whole * layout.patches**2 + (depth - whole) * sum(window**2 for window in layout.windows)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen2_5_VLConfig, Qwen2VLImageProcessor

        vision = TINY_TOWER | {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        text = {**TINY_TEXT, "rope_parameters": TINY_ROPE}
        config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, **TINY_TOKENS, **TINY_MARKS)
        return config, Qwen2VLImageProcessor(
            patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 64 * 64}
        )

"""Qwen2-VL: four patches make a token, the tower attends to the whole image, positions are time, height and width."""

from typing import Any, ClassVar

from gradprobe.vlm.families.base import TINY_TEXT
from gradprobe.vlm.families.patches import TINY_MARKS, TINY_ROPE, TINY_TOKENS, TINY_TOWER, Patches

_QWEN_2B = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
_QWEN_7B = _QWEN_2B | {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}


class Qwen2VL(Patches):
    """``Qwen2VLForConditionalGeneration``: a token is a group of 2 x 2 patches (D = 4 x 1280).

    Source: Wang et al., Qwen2-VL, 2024.
    """

    name = "qwen2_vl"
    published: ClassVar = {  # the tower of all sizes is the default, but for the width to which it maps
        "Qwen/Qwen2-VL-2B-Instruct": {
            "text_config": _QWEN_2B,
            "vision_config": {"hidden_size": 1536},
            "tie_word_embeddings": True,
        },
        "Qwen/Qwen2-VL-7B-Instruct": {"text_config": _QWEN_7B, "vision_config": {"hidden_size": 3584}},
    }

    def tower_width(self, config: Any) -> int:
        """Return the width of the tower; its configuration calls that of the language model ``hidden_size``."""
        return int(config.vision_config.embed_dim)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen2VLConfig, Qwen2VLImageProcessor

        vision = TINY_TOWER | {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
        text = {**TINY_TEXT, "rope_parameters": TINY_ROPE}
        config = Qwen2VLConfig(vision_config=vision, text_config=text, **TINY_TOKENS, **TINY_MARKS)
        return config, Qwen2VLImageProcessor(
            patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 64 * 64}
        )

"""SmolVLM and SmolVLM2: Idefics3 with smaller parts."""

from typing import Any, ClassVar

from gradprobe.vlm.families.base import TINY_TEXT, TINY_TOKEN
from gradprobe.vlm.families.idefics3 import SO400M, TINY_SIGLIP, TINY_TILES, Idefics3

_LLAMA = {"model_type": "llama", "vocab_size": 49280, "max_position_embeddings": 8192}
_SMOL_135M = _LLAMA | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
_SMOL_360M = _LLAMA | {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
}
_SMOL_17B = _LLAMA | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}


class SmolVLM(Idefics3):
    """``SmolVLMForConditionalGeneration``: as Idefics3, with 9 or 16 patches a token.

    Source: Marafioti et al., SmolVLM, 2025.
    """

    name = "smolvlm"
    published: ClassVar = {
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": {
            "text_config": _SMOL_135M,
            "vision_config": _BASE,
            "scale_factor": 4,
        },
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": {
            "text_config": _SMOL_360M,
            "vision_config": _BASE,
            "scale_factor": 4,
        },
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct": {"text_config": _SMOL_17B, "vision_config": SO400M, "scale_factor": 3},
    }

    def tiny(self) -> tuple[Any, Any]:
        from transformers import LlamaConfig, SmolVLMConfig, SmolVLMImageProcessor

        config = SmolVLMConfig(
            vision_config=TINY_SIGLIP, text_config=LlamaConfig(**TINY_TEXT), image_token_id=TINY_TOKEN, scale_factor=2
        )
        return config, SmolVLMImageProcessor(**TINY_TILES)

"""Qwen3.5: the tower of Qwen3-VL without deepstack, and a language model most of whose layers are linear attention."""

from typing import Any

from gradprobe.vlm.families.base import TINY_TEXT
from gradprobe.vlm.families.patches import TINY_MARKS, TINY_ROPE, TINY_TOKENS, TINY_TOWER, Patches
from gradprobe.vlm.families.qwen3_vl import PIXELS, tiny_processor

CHUNK = 64  # positions that the gated delta rule works on at once


class Qwen35(Patches):
    """``Qwen3_5ForConditionalGeneration``: tokens are selected before the language model only.

    The state of a layer of linear attention mixes all positions read so far: a token cannot be masked there, nor
    dropped between layers, and no bias on single keys is possible. Dropped before the first layer, a token is absent
    from the states as from the sequence.

    Source: Qwen3.5, 2026.
    """

    name = "qwen3_5"
    pixels = PIXELS

    def recurrence(self, config: Any, layer: int, length: int) -> int | None:
        """Count the convolution and the gated delta rule of a layer of linear attention, in chunks of `CHUNK`.

        The convolution runs over its padding too.
        """
        reader = config.get_text_config()
        if reader.layer_types[layer] != "linear_attention":
            return None
        heads, key, value = reader.linear_num_value_heads, reader.linear_key_head_dim, reader.linear_value_head_dim
        channels = 2 * reader.linear_num_key_heads * key + heads * value
        chunk = 2 * CHUNK * (2 * CHUNK * key + CHUNK * value + 3 * key * value)
        kernel = reader.linear_conv_kernel_dim
        return 2 * channels * kernel * (length + kernel - 1) + heads * chunk * -(-length // CHUNK)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen3_5Config

        vision = TINY_TOWER | {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48}
        vision |= {"patch_size": 16, "num_position_embeddings": 64}
        linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        rope = TINY_ROPE | {"mrope_section": [1, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.5}
        text = {**TINY_TEXT, **linear, "head_dim": 12, "rope_parameters": rope}
        text["layer_types"] = ["linear_attention", "full_attention"]
        config = Qwen3_5Config(vision_config=vision, text_config=text, **TINY_TOKENS, **TINY_MARKS)
        return config, tiny_processor()

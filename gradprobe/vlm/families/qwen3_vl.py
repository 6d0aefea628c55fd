"""Qwen3-VL, dense and as a mixture of experts: features of layers of the tower enter the first layers that read."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from gradprobe.vlm.families.base import TINY_TEXT
from gradprobe.vlm.families.patches import TINY_MARKS, TINY_ROPE, TINY_TOKENS, TINY_TOWER, Patches

PIXELS = (65_536, 16_777_216)  # by its processor's files on the hub
_QWEN_2B = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
    },
}  # fmt: skip
_QWEN_4B = _QWEN_2B | {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
}  # fmt: skip
_QWEN_8B = _QWEN_4B | {"hidden_size": 4096, "intermediate_size": 12288}
_QWEN_30B = _QWEN_2B | {
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
_SMALL = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
TINY_VISION = TINY_TOWER | {
    "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48, "patch_size": 16,
    "num_position_embeddings": 64, "depth": 3, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip
TINY_READER = {**TINY_TEXT, "head_dim": 12, "rope_parameters": {**TINY_ROPE, "mrope_interleaved": True}}


class Deepstack(Patches):
    """Base of both kinds of Qwen3-VL: N differs with the picture's size.

    A token is all that the language model reads at its place: the group of 2 x 2 patches as the tower's last layer
    gives it, and behind it the same group as the layers of ``deepstack_visual_indexes`` give it (D = 4 x 1152 x 4 in
    the larger models). Each part has a merger of its own; the language model adds the parts behind the first to its
    states behind its first layers, at the places of the tokens that are kept.

    Scorers and selectors read all parts, and all of them are throttled with the weight of their token, as the last
    layer's is:

    - ``gather`` hands on all parts of the K tokens, times alpha, and none of the others'.
    - ``zero`` and ``scale`` multiply all parts: a weight of 0 adds what the mergers make of zeros, the same for every
      image. The mergers normalise first, so that ``scale`` hides next to nothing above 0, and the gradient of ``zero``
      is very large at 0; both are as they are for the last layer alone.
    - ``vpnoise`` mixes all parts with noise that is independent in each; with ``sigma=rms`` its scale is that of the
      whole token, so parts of smaller scale drown first. For alpha = 0 nothing of any part is left.
    - ``mean`` moves each part to the mean of that part.
    - ``attention`` and ``dynamicvit`` leave all parts as they are: nobody looks at an absent token in any layer, so
      that what is added to it reaches nothing.

    Source: Meng et al., DeepStack, 2024; Qwen3-VL Technical Report, 2025.
    """

    pixels = PIXELS

    def streams(self, model: Any) -> Sequence[nn.Module]:
        """Return the mergers of the layers before the last."""
        return tuple(model.model.visual.deepstack_merger_list)

    def dim(self, model: Any) -> int:
        """Return the width of four patches, in the last layer and in those of deepstack."""
        return super().dim(model) * (1 + len(self.streams(model)))


class Qwen3VL(Deepstack):
    """``Qwen3VLForConditionalGeneration``."""

    name = "qwen3_vl"
    published: ClassVar = {
        "Qwen/Qwen3-VL-2B-Instruct": {
            "text_config": _QWEN_2B, "vision_config": _SMALL | {"out_hidden_size": 2048}, "tie_word_embeddings": True,
        },
        "Qwen/Qwen3-VL-4B-Instruct": {
            "text_config": _QWEN_4B, "vision_config": _SMALL | {"out_hidden_size": 2560}, "tie_word_embeddings": True,
        },
        "Qwen/Qwen3-VL-8B-Instruct": {"text_config": _QWEN_8B, "vision_config": {"out_hidden_size": 4096}},
    }  # fmt: skip

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen3VLConfig

        config = Qwen3VLConfig(vision_config=TINY_VISION, text_config=TINY_READER, **TINY_TOKENS, **TINY_MARKS)
        return config, tiny_processor()


class Qwen3VLMoe(Deepstack):
    """``Qwen3VLMoeForConditionalGeneration``: a mixture of experts reads; all else is Qwen3-VL's."""

    name = "qwen3_vl_moe"
    published: ClassVar = {
        "Qwen/Qwen3-VL-30B-A3B-Instruct": {"text_config": _QWEN_30B, "vision_config": {"out_hidden_size": 2048}},
    }

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen3VLMoeConfig

        text = {**TINY_READER, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
        config = Qwen3VLMoeConfig(vision_config=TINY_VISION, text_config=text, **TINY_TOKENS, **TINY_MARKS)
        return config, tiny_processor()


def tiny_processor() -> Any:
    """Return the image processor of the tiny models of this kind."""
    from transformers import Qwen2VLImageProcessor

    size = {"shortest_edge": 16 * 1024, "longest_edge": 128 * 1024}
    return Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=size)

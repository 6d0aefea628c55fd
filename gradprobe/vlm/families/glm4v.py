"""GLM-4V and GLM-4.5V: the tower merges 2 x 2 patches by a convolution, and the projector reads its result."""

from typing import Any, ClassVar

from gradprobe.vlm.families.base import TINY_TEXT, Layout, Size
from gradprobe.vlm.families.patches import TINY_ROPE, TINY_TOKENS, TINY_TOWER, Patches

TINY_VISION = TINY_TOWER | {
    "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48, "patch_size": 7, "image_size": 28,
}  # fmt: skip
TINY_READER: dict[str, Any] = {
    **TINY_TEXT, "rope_parameters": TINY_ROPE | {"mrope_section": [1, 1, 1], "partial_rotary_factor": 0.5},
}  # fmt: skip
TINY_MARKS: dict[str, Any] = {"image_start_token_id": 61, "image_end_token_id": 62}


class Merged(Patches):
    """Base of both kinds of GLM-4V: N differs with the picture's size, and D is the language model's width.

    Source: GLM-V Team, GLM-4.1V-Thinking and GLM-4.5V, 2025.
    """

    pixels = (112 * 112, 9_633_792)  # of the two frames that an image becomes

    def group(self, model: Any) -> int:
        """Return 1: patches are merged before the projector."""
        return 1

    def dim(self, model: Any) -> int:
        return model.model.visual.merger.proj.in_features

    def resized(self, config: Any, size: Size) -> Size:
        """Return the size that the processor gives an image, at least a token high and wide."""
        from transformers.models.glm4v.image_processing_glm4v import smart_resize

        vision, (least, most) = config.vision_config, self.pixels
        frames, side = vision.temporal_patch_size, vision.patch_size * vision.spatial_merge_size
        return smart_resize(frames, *size, temporal_factor=frames, factor=side, min_pixels=least, max_pixels=most)

    def convolutions(self, model: Any, layout: Layout) -> int:
        """Count the multiply-adds of the patches' convolution, and of that which merges groups of them."""
        merging = model.model.visual.downsample.weight.numel()
        per = model.config.vision_config.spatial_merge_size**2
        return super().convolutions(model, layout) - (layout.patches - layout.patches // per) * merging


class Glm4v(Merged):
    """``Glm4vForConditionalGeneration``."""

    name = "glm4v"
    published: ClassVar = {"zai-org/GLM-4.1V-9B-Thinking": {}}  # transformers' defaults

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Glm4vConfig

        config = Glm4vConfig(vision_config=TINY_VISION, text_config=TINY_READER, **TINY_TOKENS, **TINY_MARKS)
        return config, _tiny_processor()


class Glm4vMoe(Merged):
    """``Glm4vMoeForConditionalGeneration``, GLM-4.5V: a mixture of experts reads."""

    name = "glm4v_moe"

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Glm4vMoeConfig

        experts = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
        text = {**TINY_READER, **experts, "head_dim": 12, "first_k_dense_replace": 1}
        config = Glm4vMoeConfig(vision_config=TINY_VISION, text_config=text, **TINY_TOKENS, **TINY_MARKS)
        return config, _tiny_processor()


def _tiny_processor() -> Any:
    from transformers import Glm4vImageProcessor

    own: dict[str, Any] = {"patch_size": 7, "merge_size": 2}
    return Glm4vImageProcessor(size={"shortest_edge": 2 * 16 * 196, "longest_edge": 2 * 128 * 196}, **own)

"""Families of vision-language models by name."""

import importlib
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import Family

FAMILIES = {  # a new family is a file and a line here
    "llava": "gradprobe.vlm.families.llava:Llava",
    "llava_next": "gradprobe.vlm.families.llava_next:LlavaNext",
    "qwen2_vl": "gradprobe.vlm.families.qwen2_vl:Qwen2VL",
    "qwen2_5_vl": "gradprobe.vlm.families.qwen2_5_vl:Qwen25VL",
    "internvl": "gradprobe.vlm.families.internvl:InternVL",
    "llava_onevision": "gradprobe.vlm.families.llava_onevision:LlavaOnevision",
    "idefics3": "gradprobe.vlm.families.idefics3:Idefics3",
    "smolvlm": "gradprobe.vlm.families.smolvlm:SmolVLM",
    "qwen3_vl": "gradprobe.vlm.families.qwen3_vl:Qwen3VL",
    "qwen3_vl_moe": "gradprobe.vlm.families.qwen3_vl:Qwen3VLMoe",
    "qwen3_5": "gradprobe.vlm.families.qwen3_5:Qwen35",
    "glm4v": "gradprobe.vlm.families.glm4v:Glm4v",
    "glm4v_moe": "gradprobe.vlm.families.glm4v:Glm4vMoe",
}


def family_of(model_type: Any, name: str) -> Family:
    """Return the adapter of a model.

    Args:
        model_type: ``config.model_type`` of the model.
        name: Name of the model in errors.

    Raises:
        UsageError: No adapter fits it.

    Example:
        >>> family_of("llava", "llava-hf/llava-1.5-7b-hf").name
        'llava'
    """
    if model_type not in FAMILIES:
        raise UsageError(
            f"{name} is a model of type {model_type!r}, for which there is no adapter; possible: {', '.join(FAMILIES)} "
            f"(such as {', '.join(published_models())})"
        )
    module, _, attribute = FAMILIES[model_type].partition(":")
    return getattr(importlib.import_module(module), attribute)()


def published_models() -> dict[str, Family]:
    """Return the family of each model on the hub whose dimensions are known, by id.

    Example:
        >>> published_models()["Qwen/Qwen2.5-VL-7B-Instruct"].name
        'qwen2_5_vl'
    """
    families = [family_of(model_type, model_type) for model_type in FAMILIES]
    return {model: family for family in families for model in family.published}

"""Families of vision-language models by name."""

import importlib
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import Family

FAMILIES = {
    "llava": "gradprobe.vlm.families.llava:Llava",
    "llava_next": "gradprobe.vlm.families.llava_next:LlavaNext",
    "qwen2_5_vl": "gradprobe.vlm.families.qwen2_5_vl:Qwen25VL",
}


def family_of(model_type: Any, name: str) -> Family:
    """The adapter of a model.

    Args:
        model_type: ``config.model_type`` of the model.
        name: what errors call the model.

    Raises:
        UsageError: no adapter fits it.

    Example:
        >>> family_of("llava", "llava-hf/llava-1.5-7b-hf").name
        'llava'
    """
    if model_type not in FAMILIES:
        raise UsageError(
            f"{name} is a model of type {model_type!r}, for which there is no adapter; possible: {', '.join(FAMILIES)} "
            "(such as llava-hf/llava-1.5-7b-hf, llava-hf/llava-v1.6-mistral-7b-hf, Qwen/Qwen2.5-VL-7B-Instruct)"
        )
    module, _, attribute = FAMILIES[model_type].partition(":")
    return getattr(importlib.import_module(module), attribute)()

"""Entry point of lmms-eval, group ``lmms_eval.models``: the model ``gradprobe_vlm``."""

from typing import Any


def manifest() -> Any:
    """Return the manifest by which lmms-eval finds the model; only lmms-eval calls this."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("gradprobe_vlm", simple_class_path="gradprobe.vlm.evaluation.lmms_model.GradprobeVLM")

"""Models that a caller hands over as objects: how they are split, and what names them in a question."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import torch
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradprobe.errors import UsageError, in_words
from gradprobe.models.backbones import Backbone

STATE = "state:"  # begins the fingerprint of weights that are in no file


def own_backbone(model: Any, *, layer: int = 0, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """Split a model of the caller's own, which stays where it is and as it is.

    Args:
        model: a timm ``VisionTransformer``, or a `Backbone`, which keeps its own layer.
        layer: blocks before the insertion point; for a `Backbone` 0 or its own.
        device: ``cpu`` or where the model is.
        dtype: ``float32`` or that of its parameters; ``bfloat16`` runs float32 parameters under autocast.

    Raises:
        UsageError: another object, a model that cannot be split, or another layer, device or dtype than it has.
    """
    if isinstance(model, Backbone):
        if layer not in (0, model.layer):
            raise UsageError(f"this Backbone is split at layer {model.layer}; leave layer={layer} out, or split anew")
        backbone = model
    elif isinstance(model, nn.Module):
        backbone = Backbone.of(model, layer, autocast=dtype == "bfloat16")
        config = getattr(backbone.model, "pretrained_cfg", None) or {}
        backbone = replace(backbone, name=config.get("architecture") or type(backbone.model).__name__)
    else:
        raise UsageError(
            f"backbone={in_words(model)} is no model; give a name, a timm VisionTransformer or a gp.Backbone"
        )
    parameter = next(backbone.model.parameters())
    if device not in ("cpu", str(parameter.device), parameter.device.type):
        raise UsageError(f"the model is on {parameter.device}; move it: model.to({device!r}), or leave device= out")
    if parameter.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"the model is in {_dtype(parameter)}; give model.float(), with dtype='bfloat16' for autocast")
    own = "bfloat16" if backbone.autocast else _dtype(parameter)
    if dtype not in ("float32", own) or (dtype == "bfloat16" and parameter.dtype != torch.float32):
        how = "Backbone.of(model, autocast=True)" if dtype == "bfloat16" else f"model.to(torch.{dtype})"
        raise UsageError(f"the model runs in {own}, not {dtype}; give {how}, or leave dtype= out")
    return backbone


def own_names(backbone: Backbone) -> dict[str, str]:
    """The entries of a question that name such a model: ``backbone``, ``weights`` and ``dtype``."""
    parameter = next(backbone.model.parameters())
    dtype = "bfloat16" if backbone.autocast else _dtype(parameter)
    return {"backbone": backbone.name, "weights": state_fingerprint(backbone.model), "dtype": dtype}


def state_fingerprint(model: VisionTransformer) -> str:
    """``state:`` and 16 hex digits of a hash of all that decides a model's output.

    It is of the names, shapes, types and values of the ``state_dict`` and, because they are not among these, of the
    number of heads, the pooling, and the size and preprocessing of images. It is the same in every process and on
    every device.

    Args:
        model: a timm ``VisionTransformer``.

    Example:
        >>> import timm
        >>> model = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=1)
        >>> before = state_fingerprint(model)
        >>> _ = model.head.bias.data.add_(1)
        >>> state_fingerprint(model) == before
        False
    """
    heads = [module.num_heads for module in model.modules() if hasattr(module, "num_heads")]
    settings = {
        "heads": heads, "pool": str(model.global_pool), "size": list(model.patch_embed.img_size),
        "images": resolve_model_data_config(model),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        values = value.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return f"{STATE}{digest.hexdigest()[:16]}"


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

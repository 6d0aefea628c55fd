"""Models passed as objects: split at a layer, and identified in stored questions."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import torch
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradprobe.devices import check_dtype
from gradprobe.errors import UsageError, in_words
from gradprobe.models.backbones import Backbone

STATE = "state:"  # prefix of the fingerprint of weights that are in no file


def own_backbone(model: Any, *, layer: int = 0, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """Split the caller's model, which is neither moved nor changed.

    Args:
        model: A timm ``VisionTransformer``, or a `Backbone`, which keeps its own layer.
        layer: Number of blocks before the insertion point; for a `Backbone` 0 or its own.
        device: Device, ``cpu`` or that of the model.
        dtype: Data type, ``float32`` or that of its parameters; ``bfloat16`` runs float32 parameters under autocast.

    Raises:
        UsageError: The object is no model, the model cannot be split, or its layer, device or dtype is another one; or
            hooks on it change its output.
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
        remedy = "Backbone.of(model, autocast=True)" if dtype == "bfloat16" else f"model.to(torch.{dtype})"
        raise UsageError(f"the model runs in {own}, not {dtype}; give {remedy}, or leave dtype= out")
    check_dtype(own, parameter.device, "dtype='float32' without autocast")
    backbone.check_whole()
    return backbone


def own_names(backbone: Backbone) -> dict[str, str]:
    """Return the entries ``backbone``, ``weights`` and ``dtype`` that identify such a model in a stored question."""
    parameter = next(backbone.model.parameters())
    dtype = "bfloat16" if backbone.autocast else _dtype(parameter)
    return {"backbone": backbone.name, "weights": state_fingerprint(backbone.model), "dtype": dtype}


def state_fingerprint(model: VisionTransformer) -> str:
    """Return ``state:`` and 16 hex digits of a hash over everything that determines a model's output.

    The hash covers names, shapes, types and values of the ``state_dict`` and, since they are not in it, the kinds of
    modules, the number of heads, the pooling, and the size and preprocessing of images. It is the same in every process
    and on every device.

    Args:
        model: A timm ``VisionTransformer``.

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
        "heads": heads,
        "modules": [_kind(module) for module in model.modules()],
        "pool": str(model.global_pool),
        "size": list(model.patch_embed.img_size),
        "images": resolve_model_data_config(model),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        values = value.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return f"{STATE}{digest.hexdigest()[:16]}"


def _kind(module: nn.Module) -> list[str | float]:
    """Return the class of a module and the numbers that act in it beside its tensors."""
    values = [getattr(module, name, None) for name in ("eps", "scale", "approximate")]
    return [type(module).__name__, *(value for value in values if isinstance(value, int | float | str))]


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

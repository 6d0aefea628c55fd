"""Removal of the wrappers that training puts around a model."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from gradprobe.errors import UsageError, in_words


def unwrapped(model: Any, name: str) -> Any:
    """Return the model inside ``torch.compile``, data parallelism, an averaged copy or PEFT, if it computes the same.

    Adapters of PEFT's tuners (LoRA and similar) are parts of the model itself, so ``base_model.model`` keeps them.
    Learned prompts lie outside the model and are refused, as are sharded parameters.

    Args:
        model: Model; one without a wrapper is returned as it is.
        name: Name in error messages.

    Raises:
        UsageError: The object is not a module, or the model inside does not compute the same.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(linear), "mine") is linear
        True
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"{in_words(model)} is no model; give a torch.nn.Module")
    while (inner := _inside(model, name)) is not model:
        model = inner
    return model


def _inside(model: Any, name: str) -> Any:
    kind, parts = type(model).__name__, getattr(model, "_modules", {})
    if kind == "OptimizedModule" and "_orig_mod" in parts:
        return parts["_orig_mod"]
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return model.module
    if kind in ("ModelEmaV2", "ModelEmaV3") and "module" in parts:  # timm's
        return parts["module"]
    if kind == "FullyShardedDataParallel":
        raise UsageError(f"{name} is in shards ({kind}); load its full state_dict into a plain model, and pass that")
    if "base_model" in parts and hasattr(model, "peft_config"):
        inner = getattr(parts["base_model"], "_modules", {}).get("model")
        if "prompt_encoder" in parts or inner is None:
            raise UsageError(
                f"{name} is a {kind} with learned prompts, which lie outside the model; pass the model without them: "
                "model.base_model"
            )
        return inner
    if "model" in parts and hasattr(model, "peft_config") and hasattr(model, "prefix"):  # a tuner: model.base_model
        return parts["model"]
    return model

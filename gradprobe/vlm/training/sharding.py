"""Frozen model spread over processes: each holds a part of every layer, and the whole of one layer at a time."""

import os
from inspect import signature
from typing import Any

import torch
from torch import nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.model import VLM

_OTHERS = {  # settings of accelerate's that would change what is computed or where, and are not followed
    "FSDP_OFFLOAD_PARAMS": "--fsdp_offload_params true",
    "FSDP_ACTIVATION_CHECKPOINTING": "--fsdp_activation_checkpointing true",
}


def fsdp_asked() -> bool:
    """Tell whether ``accelerate launch --use_fsdp`` started this process.

    Raises:
        UsageError: It was started with an FSDP setting that is not possible here.
    """
    if not _is_true("ACCELERATE_USE_FSDP"):
        return False
    for name, option in _OTHERS.items():
        if _is_true(name):
            raise UsageError(f"accelerate launch {option} is not possible; leave it out, and lower --rows instead")
    # Otherwise transformers leaves the parameters of all processes but the first empty.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def shard(vlm: VLM, device: str) -> None:
    """Spread the layers and the head of the language model over all processes, in place.

    The vision tower, the projector and the embeddings stay whole in each process: images are embedded in a thread of
    its own, where messages between processes would get into each other's way. Forward passes and their backward are
    collective from then on: all processes do equally many, in the same order.

    Args:
        vlm: Model, on the CPU.
        device: Device of this process, onto which the model is moved.

    Raises:
        GradprobeError: Torch is too old, or the model has no list of layers.
        UsageError: The model is spread already, by this or by a device map.
    """
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    if "ignored_params" not in signature(fsdp.fully_shard).parameters:
        raise GradprobeError(
            f"FSDP of torch {torch.__version__} cannot leave parameters whole; type: pip install -U torch"
        )
    if is_sharded(vlm.model) or getattr(vlm.model, "hf_device_map", None):
        raise UsageError(f"{vlm.name} is spread over devices or processes already; open it with --device cpu or cuda")
    language: Any = vlm.family.language(vlm.model)
    layers = getattr(language, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise GradprobeError(f"{vlm.name} ({vlm.family.name}) has no list of layers that FSDP could spread")
    vlm.model.requires_grad_(False)
    embeddings, head = vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings()
    spread = {id(p) for layer in layers for p in layer.parameters()}
    whole = {p for p in vlm.model.parameters() if id(p) not in spread}
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    if head.weight is not embeddings.weight:
        whole -= set(head.parameters())
        fsdp.fully_shard(head, mesh=mesh, reshard_after_forward=True)
    for layer in layers:
        fsdp.fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # Without parameters of its own; as the root it lets a layer arrive while the one before it computes.
    fsdp.fully_shard(language, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    with torch.no_grad():
        for parameter in whole:
            parameter.data = parameter.data.to(device)
        for buffer in vlm.model.buffers():
            buffer.data = buffer.data.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Tell whether processes hold parts of the parameters of a model."""
    return any(hasattr(p, "to_local") for p in model.parameters())


def local_bytes(model: nn.Module) -> dict[str, int]:
    """Return the bytes of the parameters that this process holds, by data type.

    Example:
        >>> local_bytes(nn.Linear(3, 2))
        {'float32': 32}
    """
    sizes: dict[str, int] = {}
    for parameter in model.parameters():
        local: Any = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        name = str(parameter.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + (0 if local.is_meta else local.nbytes)
    return sizes


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")

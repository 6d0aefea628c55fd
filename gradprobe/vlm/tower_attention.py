"""Attention within the vision tower, in the layer whose output becomes the visual tokens."""

from collections.abc import Sequence
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.vlm.captions import Example
from gradprobe.vlm.model import VLM
from gradprobe.vlm.vision_features import BATCH, inputs_of

QUERIES = ("class", "mean")


def tower_attention(vlm: VLM, examples: Sequence[Example], query: str) -> Tensor | None:
    """Return the attention to each visual token, mean over heads ``(B, N)``.

    The tower runs once more. None where its tokens are not the patches of one picture, one by one (tiles, windows,
    merged patches), or its layers have no separate ``q_proj`` and ``k_proj``.

    Args:
        vlm: Model.
        examples: One image each, all with the same number of tokens.
        query: ``class``, that of the class token, or ``mean``, the mean over all patches as queries.
    """
    layer = _layer(vlm)
    if layer is None:
        return None
    parts = []
    for start in range(0, len(examples), BATCH):
        inputs = inputs_of(vlm, examples[start : start + BATCH])
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        hooks = [recorded(layer.q_proj, queries), recorded(layer.k_proj, keys)]
        try:
            tokens = vlm.vision_features(inputs).tokens
        finally:
            for hook in hooks:
                hook.remove()
        if keys[0].shape[:2] != (len(tokens), 1 + len(tokens[0])):
            return None
        parts.append(attention_to_patches(queries[0], keys[0], layer.num_heads, query))
    return torch.cat(parts)


def attention_to_patches(queries: Tensor, keys: Tensor, heads: int, query: str) -> Tensor:
    """Return the attention to each patch of a layer with a class token first, mean over heads ``(B, N)``.

    Args:
        queries: ``(B, 1 + N, D)``.
        keys: ``(B, 1 + N, D)``.
        heads: Number of heads.
        query: ``class`` or ``mean``.
    """
    rows = slice(0, 1) if query == "class" else slice(1, None)
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries[:, rows], keys))
    attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return attention[..., 1:].mean((1, 2))


def recorded(module: nn.Module, outputs: list[Tensor]) -> Any:
    """Append the module's outputs in this thread to a list until the returned hook is removed."""
    here = get_ident()

    def record(module: nn.Module, args: Any, output: Tensor) -> None:
        if get_ident() == here:
            outputs.append(output)

    return module.register_forward_hook(record)


def _layer(vlm: VLM) -> Any | None:
    """Return the attention module of the layer that the features are taken from."""
    tower: Any = vlm.family.tower(vlm.model)
    layers = getattr(getattr(getattr(tower, "vision_model", tower), "encoder", None), "layers", None)
    which = getattr(vlm.model.config, "vision_feature_layer", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(which, int):
        return None
    attention = getattr(layers[which if which < 0 else which - 1], "self_attn", None)
    return attention if hasattr(attention, "q_proj") and hasattr(attention, "k_proj") else None

"""Attention within an unpruned vision transformer, as selectors read it."""

from typing import Any

import torch
from timm.models.vision_transformer import Attention, Block
from torch import Tensor

from gradprobe.core import Tokens
from gradprobe.models.backbones import Backbone
from gradprobe.view import Tower, TowerLayer, Unavailable


def tower_of(backbone: Backbone, tokens: Tokens) -> Tower:
    """Return queries and keys of the first block behind the insertion point and of the last one.

    All patches pass through the model, without gradient.

    Args:
        backbone: Model, split at the insertion point.
        tokens: Tokens at the insertion point.

    Raises:
        Unavailable: There is no block left, or its attention is of another kind.
    """
    blocks: Any = backbone.model.blocks[backbone.layer :]
    if len(blocks) == 0:
        raise Unavailable("the tokens are selected behind the last block: there is no attention left to rank them by")
    if not all(type(block) is Block and type(block.attn) is Attention for block in (blocks[0], blocks[-1])):
        raise Unavailable(f"the attention of {backbone.name} cannot be told: its blocks are not timm's usual ones")
    with torch.no_grad(), backbone.running():
        x = torch.cat([tokens.prefix, tokens.patches], 1)
        first = _layer(backbone, blocks[0], x, tokens)
        return Tower(last=_layer(backbone, blocks[-1], blocks[:-1](x), tokens), first=first)


def _layer(backbone: Backbone, block: Any, x: Tensor, tokens: Tokens) -> TowerLayer:
    attn, model = block.attn, backbone.model
    x = block.norm1(x)
    heads = (len(x), x.shape[1], 3, attn.num_heads, attn.head_dim)
    q, k, _ = attn.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4)
    q, k = (each.transpose(1, 2).flatten(2).to(tokens.patches.dtype) for each in (attn.q_norm(q), attn.k_norm(k)))
    return TowerLayer(q, k, attn.num_heads, int(model.num_prefix_tokens), bool(model.has_class_token))

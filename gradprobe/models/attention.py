"""Attention of the class token in an unpruned vision transformer."""

import torch
from timm.models.vision_transformer import Attention, Block
from torch import Tensor

from gradprobe.core import Tokens
from gradprobe.models.backbones import Backbone


def class_attention(backbone: Backbone, tokens: Tokens) -> Tensor | None:
    """Return the attention of the class token to each patch in the last block, mean over heads ``(B, N)``.

    All patches pass through the model, without gradient. None for a model without class token or with another kind of
    attention. Source: the ranking of FasterVLM and EViT.

    Args:
        backbone: Model, split at the insertion point.
        tokens: Tokens at the insertion point.
    """
    model = backbone.model
    last = model.blocks[-1]
    if type(last) is not Block or not model.has_class_token or backbone.layer == len(model.blocks):
        return None
    attn = last.attn
    if type(attn) is not Attention:
        return None
    with torch.no_grad(), backbone.running():
        x = torch.cat([tokens.prefix, tokens.patches], 1)
        x = last.norm1(model.blocks[backbone.layer : -1](x))
        heads = (len(x), x.shape[1], 3, attn.num_heads, attn.head_dim)
        query, key, _ = attn.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4)
        query, key = attn.q_norm(query[:, :, :1]), attn.k_norm(key)
        attention = (query @ key.mT * attn.scale).softmax(-1)[:, :, 0].mean(1)
    return attention[:, model.num_prefix_tokens :].to(tokens.patches.dtype)

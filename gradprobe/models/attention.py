"""Attention to the patches in the last block of an unpruned vision transformer."""

import torch
from timm.models.vision_transformer import Attention, Block
from torch import Tensor

from gradprobe.core import Tokens
from gradprobe.models.backbones import Backbone


def last_attention(backbone: Backbone, tokens: Tokens, query: str = "class") -> Tensor | None:
    """Return the attention to each patch in the last block, mean over heads ``(B, N)``.

    All patches pass through the model, without gradient. None for a model without class token or with another kind of
    attention. Source: of the class token, the ranking of FasterVLM and EViT.

    Args:
        backbone: Model, split at the insertion point.
        tokens: Tokens at the insertion point.
        query: ``class``: of the class token; ``mean``: of all patches on average.
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
        q, key, _ = attn.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4)
        rows = slice(0, 1) if query == "class" else slice(model.num_prefix_tokens, None)
        q, key = attn.q_norm(q[:, :, rows]), attn.k_norm(key)
        attention = (q @ key.mT * attn.scale).softmax(-1)
        attention = attention[:, :, 0].mean(1) if query == "class" else attention.mean((1, 2))
    return attention[:, model.num_prefix_tokens :].to(tokens.patches.dtype)

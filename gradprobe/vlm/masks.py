"""Attention masks of a language model with biases on single keys."""

import torch
from torch import Tensor


def biased_mask(attention_mask: Tensor, key_bias: Tensor | None, self_bias: Tensor | None) -> Tensor:
    """Join causality, padding and biases on keys in one float mask ``(B, 1, T, T)``.

    A query without any key (padding, or an absent token that nothing precedes) attends to itself, so that no NaN
    arises; nothing attends to it.

    Args:
        attention_mask: ``(B, T)``, 0 for padding.
        key_bias: ``(B, T)``, added for each query; None: 0.
        self_bias: ``(B, T)``, on the diagonal instead; None: the key's.

    Example:
        >>> biased_mask(torch.tensor([[0, 1, 1]]), torch.tensor([[0.0, -1.0, 0.0]]), None)[0, 0].tolist()
        [[0.0, -inf, -inf], [-inf, -1.0, -inf], [-inf, -1.0, 0.0]]
    """
    like = key_bias if key_bias is not None else self_bias
    assert like is not None
    keys = torch.zeros_like(like) if key_bias is None else key_bias
    keys = keys.masked_fill(attention_mask == 0, -torch.inf)[:, None, :]
    total = attention_mask.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool, device=like.device).tril()
    mask = torch.where(causal, keys, -torch.inf)
    diagonal = torch.eye(total, dtype=torch.bool, device=like.device)
    if self_bias is not None:
        own = self_bias.masked_fill(attention_mask == 0, -torch.inf)[:, None, :]
        mask = torch.where(diagonal, own, mask)
    blind = (mask == -torch.inf).all(-1, keepdim=True)
    return torch.where(blind & diagonal, 0.0, mask)[:, None]

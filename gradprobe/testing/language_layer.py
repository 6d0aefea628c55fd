"""Layer of a language model as an inside selector sees it, made of given tensors."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradprobe.view import Words


@dataclass(frozen=True, eq=False)
class Layer:
    """States at the input of a language model's layer, `gradprobe.view.Inside`, without the model.

    Attributes:
        hidden: Visual states, ``(B, M, d)``.
        first: All that entered the language model, those dropped since too, ``(B, N, d)``.
        words: States of the text.
        first_words: Those that entered the language model.
        behind: Mask of the text tokens behind a visual one, ``(B, T)``.
        visual_keys: Keys of the visual tokens in this layer and in the one before, ``(2, B, M, width)``.
        text_keys: Those of the text tokens, ``(2, B, T, width)``.
        queries: Queries of the text tokens, ``(2, B, T, width)``.
        heads: Number of heads.
        layer: Number of the layer.
    """

    hidden: Tensor
    first: Tensor
    words: Words
    first_words: Words
    behind: Tensor
    visual_keys: Tensor
    text_keys: Tensor
    queries: Tensor
    heads: int
    layer: int = 2

    @property
    def keys(self) -> Tensor:
        """Keys of the visual tokens in this layer."""
        return self.visual_keys[0]

    @property
    def word_keys(self) -> Tensor:
        """Keys of the text tokens in this layer."""
        return self.text_keys[0]

    def attention(self, rows: Literal["last"] | Tensor = "last", layer: Literal[-1, 0] = -1) -> Tensor:
        """Return the attention to each visual token, mean over heads and rows ``(B, M)``."""
        mask, queries = self.words.mask, self.queries[layer]
        if isinstance(rows, str):
            queries, rows = queries[:, -1:], torch.ones_like(mask[:, -1:])
        keys = torch.cat([self.visual_keys[layer], self.text_keys[layer]], 1)
        q, k = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (queries, keys))
        absent = torch.cat([torch.zeros_like(self.hidden[..., 0], dtype=torch.bool), ~mask], 1)
        logits = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(absent[:, None, None], -torch.inf)
        attention = logits.softmax(-1)[..., : self.hidden.shape[1]].mean(1)  # (B, rows, M)
        weights = rows.to(attention) / rows.sum(1, keepdim=True).clamp(min=1)
        return (weights[:, None] @ attention)[:, 0]

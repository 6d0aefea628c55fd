"""Attention: weights scale the attention that tokens receive."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, Selection
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Attention:
    """Unchanged tokens, with ``log alpha_i`` added to the attention logits of token i as a key in every layer.

    Weight 0 is exactly an absent token, weight 1 exactly a present one, so the limit of a soft top-K for tau -> 0 is
    exactly ``hard+gather``.
    """

    about = About("log alpha_i on the attention logits of key i", "exact")

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        absent = weights <= 0  # false for NaN, which so stays visible
        logs = torch.where(absent, torch.ones_like(weights), weights).log()
        return Selection(patches, weights, key_bias=torch.where(absent, torch.full_like(weights, -torch.inf), logs))

"""DynamicViT's masked attention: other tokens ignore a dropped one, which still has a gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, Selection
from gradprobe.operator_info import About

EPS = 1e-6  # weight that remains of a dropped token, as in the paper


@dataclass(frozen=True)
class DynamicViT:
    """Attention times the retention weight of the key, except to itself: ``e^{P_ij} G_ij / sum_k e^{P_ik} G_ik``.

    ``G_ij = alpha_j`` for i != j and 1 for i = j, in every layer. It differs from ``attention`` in two ways: a token
    always attends to itself, and a weight of 0 leaves ``1e-6``, so that a dropped token keeps the gradient of being
    attended to, which it has not with ``attention``.

    Source: DynamicViT, arXiv 2106.02034, Eq. 10 and 11; as logits, ``log(alpha_j + 1e-6 (1 - alpha_j))``.
    """

    about = About(
        "attention times alpha_j for keys j != i, 1 for j = i",
        "exact",
        "DynamicViT, arXiv 2106.02034",
        ("dynamicvit",),
    )

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        bias = (weights + EPS * (1 - weights)).log()
        return Selection(patches, weights, key_bias=bias, self_bias=torch.zeros_like(weights))

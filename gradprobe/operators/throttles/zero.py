"""Zero: dropped tokens become zero vectors."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, Selection, top_k_mask
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Zero:
    """All N tokens, times a 0/1 weight: ``m_i x_i`` with m the K largest weights.

    A soft weight is hardened forward and keeps its gradient backward (straight through), so that dropped tokens have a
    gradient too.
    """

    about = About("1[alpha_i among the K largest] x_i", "biased")

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        mask = top_k_mask(weights, k) + (weights - weights.detach())
        return Selection(patches * mask[..., None], weights)

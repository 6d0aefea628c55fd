"""Hard top-K, the deployed selection."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Hard:
    """Weight one for the K largest scores, zero for the rest: ``m = 1[s_i among the K largest]``.

    Gradient: none (piecewise constant). Source: DiffPrune, Eq. 3.
    """

    about = About("alpha_i = 1[s_i among the K largest]", "none", "DiffPrune, Eq. 3", ("diffprune",), budget=1e-9)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return top_k_mask(scores, k).detach()

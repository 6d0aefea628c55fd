"""Hard top-K: what is deployed."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, top_k_mask


@dataclass(frozen=True)
class Hard:
    """Weight one for the K largest scores, zero for the rest: ``m = 1[s_i among the K largest]``.

    Gradient: none (piecewise constant). Source: DiffPrune, Eq. 3.
    """

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return top_k_mask(scores, k).detach()

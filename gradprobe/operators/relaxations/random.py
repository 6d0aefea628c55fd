"""Random subset, the floor that every scorer has to beat."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.nans import refuse_nan
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Random:
    """Weight one for K tokens chosen uniformly without replacement, whatever their scores.

    Gradient: none.
    """

    about = About("alpha = 1[K of N tokens at random]", "none", stochastic=True, budget=1e-9)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        refuse_nan(scores)  # scores play no part, yet a NaN is an error upstream
        return top_k_mask(noise.uniform(scores.shape[1:], like=scores.double()), k).to(scores.dtype)

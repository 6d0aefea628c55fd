"""A random subset: the floor that every scorer has to beat."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, top_k_mask


@dataclass(frozen=True)
class Random:
    """Weight one for K tokens chosen uniformly without replacement, whatever their scores.

    Gradient: none.
    """

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return top_k_mask(noise.uniform(scores.shape[1:], like=scores.double()), k).to(scores.dtype)

"""Gather: only the kept tokens enter the encoder."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, Selection, top_k
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Gather:
    """The K tokens with the largest weights, times their weights, in their original order: ``alpha_i x_i, i in topK``.

    A 0/1 weight leaves the kept tokens unchanged and still gives them a gradient; dropped tokens have none.
    Source: DiffPrune, Eq. 3.
    """

    about = About("alpha_i x_i, i in topK(alpha)", "exact", "DiffPrune, Eq. 3", ("diffprune",))

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        index = top_k(weights.detach(), k)
        tokens = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
        return Selection(tokens * weights.gather(1, index)[..., None], weights, index=index)

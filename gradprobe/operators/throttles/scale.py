"""Scale gate: tokens shrink with their weights."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, Selection
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Scale:
    """All N tokens, times their weights: ``alpha_i x_i``.

    Source: DiffPrune, section 4.3 and Table 5.
    """

    about = About("alpha_i x_i", "exact", "DiffPrune, Table 5", ("diffprune",))

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        return Selection(patches * weights[..., None], weights)

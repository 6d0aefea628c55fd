"""Mean: tokens fade into the mean token of their image."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, Selection
from gradprobe.operator_info import About


@dataclass(frozen=True)
class Mean:
    """All N tokens, each moved towards the mean: ``alpha_i x_i + (1 - alpha_i) mean_j x_j``."""

    about = About("alpha_i x_i + (1 - alpha_i) mean_j x_j", "exact")

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        alpha = weights[..., None]
        return Selection(alpha * patches + (1 - alpha) * patches.mean(1, keepdim=True), weights)

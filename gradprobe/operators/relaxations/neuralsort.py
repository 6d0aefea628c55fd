"""NeuralSort: a softmax for each rank, summed over the first K."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import check_positive
from gradprobe.operator_info import About


@dataclass(frozen=True)
class NeuralSort:
    """Column sums of NeuralSort: ``alpha_j = sum_{i <= K} softmax_j(((N + 1 - 2i) s_j - sum_l |s_j - s_l|) / tau)``.

    The rows of the permutation matrix sum to one, its columns need not: weights are clipped at one, so they may sum to
    less than K. K = N keeps all. The cost is O(K N), with the sums of distances from a sort instead of N^2 differences;
    logits, which reach N times the scores, are computed in float64.

    Gradient: exact. Source: Grover, Wang, Zweig and Ermon, arXiv 1903.08850.

    Attributes:
        tau: Temperature, > 0.
    """

    tau: float = 1.0
    about = About(
        "alpha_j = sum_{i <= K} softmax_j(((N + 1 - 2i) s_j - sum_l |s_j - s_l|) / tau)",
        "exact",
        "NeuralSort, arXiv 1903.08850",
        ("neuralsort",),
    )

    def __post_init__(self) -> None:
        check_positive("neuralsort", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        n = scores.shape[-1]
        if k == n:
            return top_k_mask(scores, k)
        t, order = (scores.double() / self.tau).sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(1, n + 1, dtype=t.dtype, device=t.device)
        curve = (2 * rank + 1) * t - 2 * t.cumsum(-1)  # (N + 1) t_j - sum_l |t_j - t_l|, but for the same number in all
        peak = (curve - 2 * rank * t)[..., :k].detach()  # row i is largest at j = i
        factors = torch.stack([torch.ones_like(peak), (-2 * rank[:k]).expand_as(peak), -peak], -1)
        logits = factors @ torch.stack([curve, t, torch.ones_like(t)], -2)
        narrow = logits.to(torch.promote_types(scores.dtype, torch.float32))  # 0 at the peak: nothing is lost
        alpha = narrow.softmax(-1).sum(-2)
        return torch.zeros_like(alpha).scatter(-1, order, alpha).clamp(max=1).to(scores.dtype)

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
    less than K. K = N keeps all. The cost is O(K N), with the sums of distances from a sort instead of N^2 differences.

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
        wide = scores if scores.dtype == torch.float64 else scores.float()
        wide = wide - wide.detach().mean(-1, keepdim=True)  # sums of N scores far from 0 would lose their digits
        t, order = wide.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(1, n + 1, dtype=wide.dtype, device=wide.device)
        up_to = t.cumsum(-1)
        distances = 2 * up_to - up_to[..., -1:] + (n - 2 * rank) * t
        logits = (n + 1 - 2 * rank[:k, None]) * t[..., None, :] - distances[..., None, :]
        alpha = (logits / self.tau).softmax(-1).sum(-2)
        return torch.zeros_like(alpha).scatter(-1, order, alpha).clamp(max=1).to(scores.dtype)

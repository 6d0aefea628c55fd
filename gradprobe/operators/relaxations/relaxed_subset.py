"""Relaxed subset sampling: K softmaxes, one after the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class RelaxedSubset:
    """Gumbel top-K relaxed: ``w^1 = s + g, a^j = softmax(w^j / tau), w^{j+1} = w^j + log(1 - a^j), alpha = sum_j a^j``.

    The sum is K, but a single token may take more than one (at K = N, tau = 1 and two scores far apart, by a half);
    weights are clipped at one, so they may sum to less than K. K = N keeps all.

    Gradient: exact (given the noise). Source: Xie and Ermon, arXiv 1901.10517.

    Attributes:
        tau: Temperature, > 0.
    """

    tau: float = 1.0
    about = About(
        "alpha = sum_{j <= K} softmax(w^j / tau), w^1 = s + g, w^{j+1} = w^j + log(1 - softmax(w^j / tau))",
        "exact",
        "relaxed subset sampling, arXiv 1901.10517",
        ("relaxed-subset", "gumbel-topk"),
        stochastic=True,
    )

    def __post_init__(self) -> None:
        check_positive("relaxed-subset", "tau", self.tau)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        logits = (wide + noise.gumbel(scores.shape[1:], like=wide)) / self.tau
        total = torch.zeros_like(wide)
        for _ in range(k):
            largest, where = logits.max(-1, keepdim=True)
            logits = logits - largest
            others = logits.scatter(-1, where, -torch.inf).logsumexp(-1, keepdim=True)
            norm = torch.logaddexp(others, torch.zeros_like(others))
            taken = (logits - norm).exp()
            total = total + taken
            left = torch.log1p(-taken.clamp(max=0.5)).scatter(-1, where, others - norm)  # log(1 - taken), also near 1
            logits = logits + left / self.tau
        return total.clamp(max=1).to(scores.dtype)

"""ReinMax: a straight-through estimator of second order, for the choice between keep and drop of each token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class ReinMax:
    """Coins with K heads on average, ``D_i ~ Bernoulli(p_i)``, p the logistic soft top-K; ReinMax backward.

    ReinMax treats categories; here each token has two, keep and drop. With ``q = (p' + D) / 2``, p' the soft top-K
    at ``tau_q``, the derivative of D_i in its logit is taken as ``2 q_i (1 - q_i) - p_i (1 - p_i) / 2``, and that of
    the logits in the scores is the soft top-K's own. The budget holds on average. K = N keeps all.

    Gradient: unbiased for linear losses, accurate to second order for others. Source: Liu et al., arXiv 2304.08612.

    Attributes:
        tau_q: Temperature of p', >= 1 in the paper; not annealed.
    """

    tau_q: float = 1.0
    suited = "dynamicvit"
    about = About(
        "alpha_i ~ Bernoulli(p_i), p_i = sigmoid(s_i - b), b: sum p = K",
        "unbiased",
        "ReinMax, arXiv 2304.08612",
        ("reinmax",),
        stochastic=True,
    )

    def __post_init__(self) -> None:
        check_positive("reinmax", "tau_q", self.tau_q)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        with torch.no_grad():
            p = soft_topk(wide, k, 1.0, cdf="logistic")
            drawn = (noise.uniform(scores.shape[1:], like=scores.double()) < p).to(wide.dtype)
            q = (drawn + (p if self.tau_q == 1 else soft_topk(wide, k, self.tau_q, cdf="logistic"))) / 2
            slope = 2 * q * (1 - q) - p * (1 - p) / 2
            share = p * (1 - p)
            share = share / share.sum(-1, keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
        surrogate = slope * (wide - (share * wide).sum(-1, keepdim=True))
        return (drawn + (surrogate - surrogate.detach())).to(scores.dtype)

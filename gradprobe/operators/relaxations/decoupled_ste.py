"""Decoupled straight-through estimator: one temperature forward, another backward."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import check_positive
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class DecoupledSTE:
    """Coins with K heads on average at one temperature, the backward of the soft top-K at another.

    ``D_i ~ Bernoulli(p_i)``, p the logistic soft top-K at ``tau_f``; ``dD := d p'``, p' that at ``tau_b``. The paper
    treats categories; here each token has two, keep and drop. The budget holds on average. K = N keeps all.

    Gradient: biased. Source: Shah, Yan, Mozer and Liu, arXiv 2410.13331, which searches for the best pair.

    Attributes:
        tau_f: Forward temperature, > 0; not annealed.
        tau_b: Backward temperature, > 0; not annealed.
    """

    tau_f: float = 0.3
    tau_b: float = 1.0
    suited = "dynamicvit"
    about = About(
        "alpha_i ~ Bernoulli(p_i), p_i = sigmoid((s_i - b) / tau_f), b: sum p = K; backward at tau_b",
        "biased",
        "Decoupled ST, arXiv 2410.13331",
        ("decoupled-ste",),
        stochastic=True,
    )

    def __post_init__(self) -> None:
        check_positive("decoupled-ste", "tau_f", self.tau_f)
        check_positive("decoupled-ste", "tau_b", self.tau_b)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        p = soft_topk(wide.detach(), k, self.tau_f, cdf="logistic")
        drawn = (noise.uniform(scores.shape[1:], like=scores.double()) < p).to(wide.dtype)
        soft = soft_topk(wide, k, self.tau_b, cdf="logistic")
        return (drawn + (soft - soft.detach())).to(scores.dtype)

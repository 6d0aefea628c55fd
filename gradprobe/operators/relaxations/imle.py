"""I-MLE: the difference of two hard selections, before and after a step along the gradient of the mask."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened

TERMS = 10  # of the sum of gammas, as in the paper


@dataclass(frozen=True)
class IMLE:
    """Perturbed top-K ``m = topK(t)``, ``t = s + eps``, with the backward ``(m - topK(t - lam dL/dm)) / lam``.

    eps is a sum of gammas, ``(1/K) (sum_{i <= 10} Gamma(1/K, K/i) - log 10)``, whose sum over K tokens is nearly a
    Gumbel number. A gradient dL/dm that is small against the gaps of t over lam swaps no token and gives zero. With
    ``lam=norm`` the step of each image is as long as t is wide, ``lam = |t - mean t| / |dL/dm|``: the normalisation of
    AIMLE without its adaptation.

    Gradient: biased. Source: Niepert, Minervini and Franceschi, arXiv 2106.01798; AIMLE, arXiv 2209.04862.

    Attributes:
        lam: Step lambda, > 0, or ``norm``.
    """

    lam: float | str = 10.0
    suited = "gather"

    def __post_init__(self) -> None:
        if isinstance(self.lam, str):
            if self.lam != "norm":
                raise UsageError(f"imle:lam={self.lam}: possible are lam=norm or a positive number")
        else:
            check_positive("imle", "lam", self.lam)

    @property
    def about(self) -> About:
        """Promise with these fields."""
        cite = ("imle",) if self.lam != "norm" else ("imle", "aimle")
        return About("alpha = topK(s + eps), eps sums of gammas", "biased", "I-MLE, arXiv 2106.01798", cite, True, 1e-9)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        scale = k / torch.arange(1, TERMS + 1, dtype=torch.float64, device=scores.device)
        gammas = noise.gamma(1 / k, (TERMS, scores.shape[-1]), like=scores.double())
        eps = ((gammas * scale[:, None]).sum(1) - torch.log(torch.tensor(float(TERMS)))) / k
        wide = widened(scores)
        return _Difference.apply(wide + eps.to(wide.dtype), k, self.lam).to(scores.dtype)


class _Difference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, k: int, lam: float | str) -> Tensor:
        mask = top_k_mask(t, k)
        ctx.save_for_backward(t, mask)
        ctx.k, ctx.lam = k, lam
        return mask

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        t, mask = ctx.saved_tensors
        if ctx.lam == "norm":
            width = (t - t.mean(-1, keepdim=True)).norm(dim=-1, keepdim=True)
            size = grad.norm(dim=-1, keepdim=True)
            lam = torch.where((size > 0) & (width > 0), width / size, torch.ones_like(size))
        else:
            lam = torch.full_like(t[..., :1], ctx.lam)
        return (mask - top_k_mask(t - lam * grad, ctx.k)) / lam, None, None

"""Perturbed top-K: the mean of many hard selections."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class Perturbed:
    """Top-K smoothed by Gaussian noise: ``alpha = mean_r topK(s + sigma z_r)``, an estimate of its expectation.

    The Jacobian of the expectation is ``E[topK(s + sigma z) z^T] / sigma``, estimated by the covariance of the same
    masks and draws, ``sum_r (m_r - alpha) z_r^T / (sigma (R - 1))``, which has less variance than the plain mean and is
    also unbiased. No N x N matrix is formed.

    Gradient: unbiased for linear losses. Other losses read a mean of few masks, which adds a bias of order 1/R.
    Source: Berthet et al., arXiv 2002.08676; for patches, Cordonnier et al., arXiv 2104.03059.

    Attributes:
        sigma: Scale of the noise in units of the scores, > 0.
        samples: Number of samples R, at least 2.
    """

    sigma: float = 1.0
    samples: int = 100
    about = About(
        "alpha = mean_r topK(s + sigma z_r)",
        "unbiased",
        "arXiv 2002.08676, 2104.03059",
        ("perturbed", "patch-selection"),
        stochastic=True,
        budget=1e-9,
    )

    def __post_init__(self) -> None:
        check_positive("perturbed", "sigma", self.sigma)
        if not 2 <= self.samples <= 100_000:
            raise UsageError(f"perturbed:samples={self.samples}: give 2 to 100000, e.g. perturbed:samples=100")

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        if k == scores.shape[-1]:
            return top_k_mask(scores, k)
        wide = widened(scores)
        z = noise.normal((self.samples, scores.shape[-1]), like=wide)
        indices = (wide.detach()[:, None] + self.sigma * z).topk(k, dim=-1, sorted=False).indices
        masks = torch.zeros_like(z).scatter_(-1, indices, 1.0)
        alpha = masks.mean(1)
        along = (z @ wide[..., None]).squeeze(-1) / (self.sigma * (self.samples - 1))
        moved = ((masks - alpha[:, None]) * along[..., None]).sum(1)
        return (alpha + (moved - moved.detach())).to(scores.dtype)

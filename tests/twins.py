"""Shared parts of the tests of relaxations: slow twins, and means of many draws."""

import itertools
import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.operators import registry

DRAWS = 8_000
SIGMAS = 4.5  # how many standard errors a mean may be off
ONE = (1.5, -1.0, 0.3, 0.0, 0.8)


def rows(count=4, n=7, seed=0, scale=1.5):
    return scale * torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def many(count, scores=ONE):
    """The same scores for many images, whose noise is their own."""
    return torch.tensor(scores, dtype=torch.float64).repeat(count, 1)


def noise_for(scores, seed=0):
    return Noise(seed, range(len(scores)))


def ours(spec, scores, k, v=None, seed=0):
    """Weights and ``d <v, weights> / d scores``."""
    leaf = scores.clone().requires_grad_()
    weights = registry.part("relaxation", spec)(leaf, k, noise_for(scores, seed))
    if v is None:
        return weights.detach(), None
    return weights.detach(), torch.autograd.grad(weights, leaf, v.expand_as(weights))[0]


def twin(function, scores, v):
    leaf = scores.clone().requires_grad_()
    weights = function(leaf)
    return weights.detach(), torch.autograd.grad(weights, leaf, v.expand_as(weights))[0]


def assert_same(mine, other, rtol=1e-9, atol=1e-12):
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def assert_mean(draws, expected):
    """The mean of independent draws (first dimension) is what is expected, and no number is far too sure of it."""
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() <= SIGMAS * error + 1e-12).all()


def hard(values: Tensor, k: int) -> Tensor:
    """Top-K one row at a time."""
    mask = torch.zeros_like(values)
    for row, kept in zip(mask, values.tolist(), strict=True):
        row[sorted(range(len(kept)), key=lambda i: -kept[i])[:k]] = 1
    return mask


def subsets(n, k):
    return torch.tensor(
        [[float(i in kept) for i in range(n)] for kept in itertools.combinations(range(n), k)], dtype=torch.float64
    )


def laplace(x: Tensor) -> Tensor:
    return torch.where(x < 0, x.abs().neg().exp() / 2, 1 - x.abs().neg().exp() / 2)


CDFS = {
    "lapsum": laplace,
    "logistic": torch.sigmoid,
    "probit": lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2,
    "capped-simplex": lambda x: (x + 0.5).clamp(0, 1),
}


def budgeted(scores: Tensor, k: int, tau: float, cdf) -> Tensor:
    """``F((s - b) / tau)``, b by root finding and differentiated by one Newton step from there."""
    weights = []
    for row in scores:
        fixed = row.detach()
        ends = float(fixed.min()) - 40 * tau, float(fixed.max()) + 40 * tau
        b = brentq(lambda b, s=fixed: float(cdf((s - b) / tau).sum()) - k, *ends, xtol=1e-14, rtol=1e-15)
        b = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(cdf((fixed - b) / tau).sum(), b)
        b = b.detach()
        weights.append(cdf((row - (b - (cdf((row - b) / tau).sum() - k) / (slope if slope else 1))) / tau))
    return torch.stack(weights)

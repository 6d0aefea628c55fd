"""Soft top-K questions: scores x budgets x temperatures, and a brute-force twin."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, ndtr
from torch import Tensor

from gradprobe.operators.softtopk import CDFS
from gradprobe.testing.cases import score_cases

CASES = score_cases()
TAUS = torch.tensor([10.0, 1, 0.1, 1e-3, 1e-8], dtype=torch.float64)
TWINS = {
    "laplace": lambda x: np.where(x < 0, np.exp(-np.abs(x)) / 2, 1 - np.exp(-np.abs(x)) / 2),
    "logistic": expit,
    "gaussian": ndtr,
    "linear": lambda x: np.clip(x + 0.5, 0, 1),
}


cdfs = pytest.mark.parametrize("cdf", CDFS)
cases = pytest.mark.parametrize("case", CASES)


def budgets(n: int) -> Tensor:
    """Whole and broken budgets, both ends, and some within rounding of a whole number."""
    return torch.tensor(
        sorted({0, 1e-6, 0.5, 1, n // 3, n / 3, n // 2 + 1e-13, n - 1, n - 0.5, n - 1e-6, n}), dtype=torch.float64
    ).clamp(0, n)


def questions(case: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ``(taus, budgets, 4, N)``, budgets and temperatures ``(taus, budgets, 4)``: all with all."""
    scores = CASES[case].to(dtype)
    k = budgets(scores.shape[-1])
    shape = len(TAUS), len(k), len(scores)
    return scores.expand(*shape[:2], *scores.shape), k[None, :, None].expand(shape), TAUS[:, None, None].expand(shape)


def crawling(seed: int, sizes: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Scores ``(rows, N)`` of many scales with ties, broken budgets near whole ones, and temperatures, for each N.

    A root finder crawls on some of them or leaves its bracket; found by random search, kept as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: torch.rand(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    for n in sizes:
        rows = 30_000 // n
        scores = (uniform(rows, n) - 0.5) * 10 ** (8 * uniform(rows, n) + 10 * uniform(rows, 1) - 9)
        scores = torch.where(uniform(rows, n) < uniform(rows, 1) / 2, scores[:, :1], scores)
        k = n * uniform(rows)
        near = (k.round() + (uniform(rows) - 0.5) * 10 ** (-16 * uniform(rows))).clamp(0, n)
        yield scores, torch.where(uniform(rows) < 0.5, k, near), 10 ** (9 * uniform(rows) - 8)


def twin(scores: np.ndarray, k: float, tau: float, cdf: str) -> np.ndarray:
    """One row by numpy and scipy's root finder."""
    f = TWINS[cdf]
    reach = 40 * tau + 1
    b = brentq(lambda b: f((scores - b) / tau).sum() - k, scores.min() - reach, scores.max() + reach, xtol=1e-15)
    return f((scores - b) / tau)


def central(f, x: Tensor, step: float) -> Tensor:
    """Central differences of f at a vector x: ``(..., N)``, the derivative for x in the last dimension."""
    return torch.stack([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in torch.eye(len(x)).to(x)], -1)

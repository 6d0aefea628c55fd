"""A task whose smoothed objective is known: the deployed loss is the sum of a cost over the tokens that are kept."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import ndtr
from torch import nn

from gradprobe.core import Batch, Selection, Tokens


def _scorer() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(-2)).double()


@dataclass(frozen=True)
class Additive:
    """B images of N tokens; token i costs the first of its D channels, times its weight where all go on."""

    n_tokens: int = 10
    scorer: nn.Module = field(default_factory=_scorer)
    poison: int | None = None  # the image whose loss is NaN
    skipped = ()
    generator = "host"

    @property
    def question(self):
        return {"backbone": "additive", "scorer": "tanh", "loss": "ce"}

    @contextmanager
    def running(self):
        yield

    def batches(self, count, size, seed):
        for i in range(count):
            ids = range(seed * 1000 + i * size, seed * 1000 + (i + 1) * size)
            rows = [torch.randn(self.n_tokens, 4, generator=torch.Generator().manual_seed(j)) for j in ids]
            tokens = torch.stack(rows).double()
            yield Batch(tuple(ids), Tokens(tokens[:, :0], tokens), torch.zeros(size))

    def losses(self, selection: Selection, batch: Batch):
        costs = batch.tokens.patches[..., 0]
        losses = (selection.weights * costs).sum(-1)
        if self.poison is not None:
            losses = losses / torch.tensor([float(i != self.poison) for i in batch.ids])
        return losses


def kept_probability(s: np.ndarray, k: int, sigma: float) -> np.ndarray:
    """``P(i is among the K largest of s + sigma z)`` for independent Gaussians, ``(..., N)``, by integration.

    Given ``z_i = x``, the others lie above it independently, and how many do is a Poisson binomial.
    """
    x = np.linspace(-7, 7, 120)
    weights = np.exp(-(x**2) / 2)
    weights /= weights.sum()  # the trapezium rule is exact for all that is smooth here
    found = np.empty(s.shape)
    for i in range(s.shape[-1]):
        above = ndtr((np.delete(s, i, -1) - s[..., i : i + 1])[..., None] / sigma - x)  # (..., N-1, nodes)
        counts = np.zeros((k, *s.shape[:-1], len(x)))  # P(so many of those seen so far lie above), for fewer than K
        counts[0] = 1
        for p in np.moveaxis(above, -2, 0):
            counts[1:] = counts[1:] * (1 - p) + counts[:-1] * p
            counts[0] *= 1 - p
        found[..., i] = counts.sum(0) @ weights
    return found


def smoothed_gradient(s: np.ndarray, costs: np.ndarray, k: int, sigma: float, step: float = 1e-4) -> np.ndarray:
    """Exact ``grad J_sigma`` of one image, ``(N,)``: central differences of ``sum_i c_i P(i is kept)``."""
    moves = step * np.eye(len(s))
    above, below = kept_probability(np.stack([s + moves, s - moves]), k, sigma) @ costs
    return (above - below) / (2 * step)

"""A task small enough to be checked by hand: one attention pooling over tokens, a linear head, cross-entropy."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from gradprobe.core import Batch, Selection, Tokens
from gradprobe.view import View


def _scorer(dim: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(dim, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(-2)).double()


@dataclass(frozen=True)
class Toy:
    """B images of N random tokens; the loss depends on which tokens get through."""

    n_tokens: int = 10
    dim: int = 5
    scorer: nn.Module = field(default_factory=lambda: _scorer(5, 0))
    poison: int | None = None  # the image whose loss is NaN

    skipped = ()
    generator = "host"
    denoiser = None
    layers = None

    @property
    def question(self):
        return {"backbone": "toy", "loss": "ce"}

    @contextmanager
    def running(self):
        yield

    def batches(self, count, size, seed):
        for i in range(count):
            yield self._batch(range(i * size, (i + 1) * size))

    def training_batches(self, size, seed, start=0):
        while True:
            yield self._batch(range(10_000 + start * size, 10_000 + (start + 1) * size))
            start += 1

    def ranks(self, selection: Selection, batch: Batch):
        logits = self._logits(selection, batch)
        return (logits > logits.gather(1, batch.target[:, None])).sum(-1)

    def judged(self, selection: Selection, batch: Batch):
        return self.losses(selection, batch), self.ranks(selection, batch)

    def view(self, batch: Batch, noise):
        return View(noise, batch.tokens.patches, relevant=batch.relevant)

    def picture(self, seed):
        return ()

    def available(self, count):
        return count

    def with_new_scorer(self, seed, scorer=None, denoiser=None):
        return replace(self, scorer=_scorer(self.dim, seed))

    def losses(self, selection: Selection, batch: Batch):
        losses = F.cross_entropy(self._logits(selection, batch), batch.target, reduction="none")
        if self.poison is not None:
            losses = losses / torch.tensor([float(i != self.poison) for i in batch.ids])
        return losses

    def _logits(self, selection: Selection, batch: Batch):
        bias = 0 if selection.key_bias is None else selection.key_bias
        tokens = selection.tokens
        attention = (tokens[..., 0] + bias).softmax(-1)
        pooled = torch.cat([(attention[..., None] * tokens).sum(1), batch.tokens.prefix[:, 0]], -1)
        angles = torch.linspace(-1, 1, 3 * 2 * self.dim, dtype=tokens.dtype, device=tokens.device)
        weights = angles.reshape(2 * self.dim, 3).cos()
        # No matrix product: some processors round its rows by their position, and an image's loss has none.
        return (pooled.tanh()[..., None] * weights).sum(-2)

    def _batch(self, ids):
        rows = [torch.randn(self.n_tokens + 1, self.dim, generator=torch.Generator().manual_seed(i)) for i in ids]
        tokens = torch.stack(rows).double()
        return Batch(tuple(ids), Tokens(tokens[:, :1], tokens[:, 1:]), torch.tensor([i % 3 for i in ids]))

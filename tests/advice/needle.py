"""A task in which one token of each image holds the answer, and operators that find it or turn away from it."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from gradprobe.core import Batch, Selection, Tokens
from gradprobe.operators import registry
from gradprobe.operators.softtopk import soft_topk
from gradprobe.view import View

RIGHT = "lapsum+scale"  # of those here the only one that trains
K, N = 2, 10
SMALL = {"k": K, "budget": 60.0, "steps": 20, "batch_size": 4, "workers": 1}


@dataclass(frozen=True)
class Away:
    """Weights that grow where scores fall: trained through it, a scorer ranks the needle last."""

    sharpness: float = 1.0

    def __call__(self, patches, scores, k, noise):
        weights = soft_topk(-self.sharpness * scores, k)
        return Selection(patches * weights[..., None], weights)


def without_gradient(patches, scores, k, noise):
    weights = torch.full_like(scores, k / scores.shape[-1])
    return Selection(patches * weights[..., None], weights)


def few(monkeypatch, *names):
    """Only these operators are registered."""
    monkeypatch.setattr(registry, "registered", lambda: list(names))


def _scorer(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(4, 1), nn.Flatten(-2)).double()
        for parameter in made.parameters():
            parameter.data.mul_(0.1)
        made[0].weight.data[:, 3] = 0
    return made


@dataclass(frozen=True)
class Needle:
    """The needle is marked in the last channel; in the others tokens vote for a class, the needle for the right one."""

    scorer: nn.Module = field(default_factory=lambda: _scorer(0))
    n_tokens: int = N
    there: int = 64  # images
    skipped = ()
    generator = "host"
    denoiser = None
    layers = None

    @property
    def question(self):
        return {"backbone": "needle", "data": "needles", "loss": "ce"}

    @contextmanager
    def running(self):
        yield

    def batches(self, count, size, seed):
        for i in range(count):
            yield self._batch(range(seed * 10**6 + i * size, seed * 10**6 + (i + 1) * size))

    def training_batches(self, size, seed, start=0):
        while True:
            first = (500 + seed) * 10**6 + start * size
            yield self._batch(range(first, first + size))
            start += 1

    def losses(self, selection: Selection, batch: Batch):
        return F.cross_entropy(self._logits(selection), batch.target, reduction="none")

    def ranks(self, selection: Selection, batch: Batch):
        logits = self._logits(selection)
        return (logits > logits.gather(1, batch.target[:, None])).sum(-1)

    def judged(self, selection: Selection, batch: Batch):
        return self.losses(selection, batch), self.ranks(selection, batch)

    def view(self, batch: Batch, noise):
        return View(noise, batch.tokens.patches, relevant=batch.relevant)

    def available(self, count):
        return min(count, self.there)

    def with_new_scorer(self, seed, scorer=None, denoiser=None):
        return replace(self, scorer=_scorer(seed))

    def _logits(self, selection):
        return selection.tokens[..., :3].sum(1)

    def _batch(self, ids):
        tokens, target = [], []
        for i in ids:
            generator = torch.Generator().manual_seed(i)
            votes = 0.3 * torch.randn(N, 4, generator=generator).double()
            place, right = torch.randint(N, (1,), generator=generator), torch.randint(3, (1,), generator=generator)
            votes[:, 3] = 0
            votes[place, 3], votes[place, right] = 300.0, 3.0
            tokens.append(votes)
            target.append(int(right))
        patches = torch.stack(tokens)
        return Batch(tuple(ids), Tokens(patches[:, :0], patches), torch.tensor(target))

"""Test of the mean of a sampled gradient, without finite differences of a sampled mean."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, Selection, Tokens
from gradprobe.testing.cases import WIDTH, Case, case_of
from gradprobe.testing.findings import Broken, Skipped, Subject
from gradprobe.testing.readouts import linear
from gradprobe.training.surrogate_loss import surrogate_loss

N, K = 5, 2
SIGMAS = 4.5  # standard errors; an unbiased gradient fails once in 150 000
SHARE = 0.06  # most that these may be of the change; draws without replacement, treated as with it, are 10 % off
ROWS = (1000, 40_000)  # fewest and most samples
WIDE = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class CachedNoise(Noise):
    """Noise that caches its numbers, since drawing them costs more than everything else here."""

    cache: dict[Any, Tensor] = field(default_factory=dict, compare=False)

    def normal(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw standard Gaussian numbers, ``(B, *shape)``."""
        return self._once(("normal", *shape), like, lambda: super(CachedNoise, self).normal(shape, WIDE))

    def uniform(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw uniform numbers, ``(B, *shape)``."""
        return self._once(("uniform", *shape), like, lambda: super(CachedNoise, self).uniform(shape, WIDE))

    def gumbel(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw standard Gumbel numbers, ``(B, *shape)``."""
        return self._once(("gumbel", *shape), like, lambda: super(CachedNoise, self).gumbel(shape, WIDE))

    def gamma(self, concentration: float, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draw gamma numbers, ``(B, *shape)``."""
        return self._once(
            ("gamma", concentration, *shape), like, lambda: super(CachedNoise, self).gamma(concentration, shape, WIDE)
        )

    def _once(self, what: tuple, like: Tensor | None, draw: Callable[[], Tensor]) -> Tensor:
        key = (self.seed, len(self.ids), self.index, self.source, what)
        if key not in self.cache:
            self.cache[key] = draw()
        return self.cache[key].to(torch.float32 if like is None else like, copy=True)


def unbiased(subject: Subject) -> str:
    """Test a sampled gradient by the fundamental theorem of calculus.

    ``mean_r <grad f(s_r), s1 - s0> = mean_r (f(s1) - f(s0))`` with ``s_r = s0 + t_r (s1 - s0)``, t stratified in (0, 1)
    and the same noise on both sides. f is a random linear function of the weights; for an operator with a ``log_prob``
    it is linear plus pairwise in the tokens, differentiated as probes do (`training.surrogate_loss.surrogate_loss`).

    Raises:
        Broken: The two sides differ by more than 4.5 standard errors.
        Skipped: The variance is too large to tell.
    """
    worst = 0.0
    cache: dict[Any, Tensor] = {}
    for path in (0, 1):
        rows = ROWS[0]
        while True:
            case, slope, rise = _along(subject, path, rows, cache)
            gap, off = float(rise.mean()), slope - rise
            error = SIGMAS * float(off.std()) / math.sqrt(rows)
            if error <= SHARE * abs(gap):
                break
            needed = rows * 1.2 * (error / max(SHARE * abs(gap), 1e-300)) ** 2
            if rows == ROWS[1]:
                raise Skipped(
                    f"{rows} samples do not tell: 4.5 standard errors are {error:.2g}, the change is {gap:.2g}"
                )
            rows = min(ROWS[1], max(2 * rows, math.ceil(min(needed, ROWS[1]))))
        bias = float(off.mean())
        if abs(bias) > error:
            message = f"the mean gradient along a line adds up to {gap + bias:.4g}, the mean changes by {gap:.4g}"
            remedy = 'mend the estimator, or declare gradient="biased"'
            raise Broken(case.describe(), f"{message} +- {error:.2g} (4.5 standard errors)", remedy)
        worst = max(worst, error / abs(gap))
    return f"right within {worst:.0%}, 4.5 standard errors"


def moves(subject: Subject) -> bool:
    """Return True if the gradient that probes use differs from zero anywhere on a line between two scores."""
    return bool(_along(subject, 0, ROWS[0], {})[1].any())


def _along(subject: Subject, path: int, rows: int, cache: dict) -> tuple[Case, Tensor, Tensor]:
    """Return the slope along a line at R points, and the change of the read-out from end to end, ``(R,)`` each."""
    generator = torch.Generator().manual_seed(path)
    draw = torch.randn(2, N, generator=generator, dtype=torch.float64)
    end = 1.5 * draw[0] / draw[0].square().mean().sqrt()  # far enough for a change, not for certainty
    values = end + draw[1] / 2  # so that the read-out rises along the line
    t = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    case = case_of((2 * t[:, None] - 1) * end, K, "a line between two scores").leaf()
    case = replace(case, patches=torch.ones_like(case.patches), noise=CachedNoise(0, range(rows), cache=cache))
    slope = subject.gradient(_terms(subject, case, values)[1].sum(), case) @ (2 * end)
    with torch.no_grad():
        ends = [_terms(subject, replace(case, scores=(sign * end).expand(rows, N)), values)[0] for sign in (-1, 1)]
    return case, slope, ends[1] - ends[0]


def _terms(subject: Subject, case: Case, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the read-out of each row, and the terms that stand for it in the gradient."""
    selection = subject(case)
    if selection.log_prob is None:
        total = selection.weights @ values
        return total, total
    reader: Any = _Reader(values)
    batch = Batch(tuple(case.noise.ids), Tokens(case.patches[:, :0], case.patches), torch.zeros(len(case.scores)))
    if not torch.is_grad_enabled():
        losses = reader.losses(selection, batch)
        return losses if selection.penalty is None else losses + selection.penalty, losses
    terms = surrogate_loss(reader, subject.on_copies, case.k, batch, case.scores, case.noise, subject.name)[1]
    return terms, terms


@dataclass(frozen=True)
class _Reader:
    """Task whose loss is linear plus pairwise in the tokens."""

    values: Tensor

    def losses(self, selection: Selection, batch: Batch) -> Tensor:
        total = linear(selection, self.values[:, None].expand(-1, WIDTH) / WIDTH)
        return total + total.square() / 4

"""Measurement of coherence: gradients of batches and noise draws, and their inner products."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.core import AnyOperator, Batch, Noise, Task
from gradprobe.probes.coherence import PROBE, CoherenceSettings
from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.probes.contract import Budget, Reporting, Resources, Subject, question_of
from gradprobe.probes.environment import environment
from gradprobe.probes.gradients import centred, gram_by_group, real_parameters, score_gradient, write_scorer_gradient
from gradprobe.settings import takes
from gradprobe.training.train import train


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, CoherenceSettings, Budget):
    """Keyword arguments of `coherence`."""


@takes(Arguments)
def coherence(task: Task, operator: AnyOperator, given: Arguments) -> CoherenceResult:
    """Measure inner products of the scorer's gradients over batches and noise draws, theta fixed, raw and centred.

    The coherence is the mean cosine over pairs of batches with other data and other noise,
    ``C = mean_{b != b', r != r'} cos(g_br, g_b'r')``. Noise is keyed by an image's place in its batch, not by the
    image, so that draw r is the same noise in every batch: only then does ``C_data`` (other batch, same draw) isolate
    the data. With at least two draws the operator's own noise is told from the data's.

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss or gradient that is not finite, too few images, or an operator that breaks its contract.

    Source: DiffPrune, section 3 and Fig. 1c, which gives no formula; this one fits its bars.
    """
    return measure(Subject.of(task, operator, given), given, Resources.of(given))


def measure(subject: Subject, settings: CoherenceSettings, resources: Resources) -> CoherenceResult:
    """Answer the question of a subject and settings, see `coherence`."""
    question = question_of(PROBE, subject, settings)
    task, name, batches, draws = subject.task, subject.name, settings.batches, settings.draws
    started = time.perf_counter()
    probed = task.batches(batches, settings.batch_size, settings.seed)  # refuses at once if there are too few images
    with task.running():
        train(
            task,
            subject.operator,
            subject.k,
            steps=settings.steps,
            seed=settings.seed,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            progress=resources.progress,
        )
        parameters = list(real_parameters(task.scorer).values())
        rows = _Rows(batches, draws, parameters)
        for b, batch in enumerate(probed):
            _measure(subject, batch, b, settings.seed, parameters, rows)
            resources.report(f"{name}: gradients", b + 1, batches)
    groups, sizes = _groups(task.scorer)
    shape = (len(groups), batches, draws, batches, draws)
    grams = [gram_by_group(part.flatten(0, 1), sizes).reshape(shape).numpy() for part in (rows.raw, rows.centred)]
    return CoherenceResult(
        question=question,
        groups=groups,
        gradient="yes" if rows.energy.any() else "none",
        gram=np.stack(grams).astype(np.float32),  # a cosine needs no more, and the store is half as large
        energy=rows.energy,
        common=rows.common,
        losses=rows.losses,
        spread=rows.spread,
        environment=environment(time.perf_counter() - started, task.skipped),
    )


def check(subject: Subject, settings: CoherenceSettings) -> dict[str, str]:
    """Refuse a scorer whose gradients are no real vectors; no key is added to the question.

    Raises:
        UsageError: one of its parameters is complex.
    """
    real_parameters(subject.task.scorer)
    return {}


class _Rows:
    """Gradient rows of all batches and draws, and the per-batch numbers beside them."""

    def __init__(self, batches: int, draws: int, parameters: list[nn.Parameter]):
        shape = (batches, draws, sum(p.numel() for p in parameters))
        self.raw = torch.zeros(shape, dtype=parameters[0].dtype)
        self.centred = torch.zeros(shape, dtype=parameters[0].dtype)
        self.energy, self.common, self.losses = (np.zeros((batches, draws)) for _ in range(3))
        self.spread = np.zeros(batches)
        self.deterministic = False

    def repeat(self, b: int, r: int) -> None:
        """Copy draw 0 of a batch to draw r, for an operator without noise."""
        for each in (self.raw, self.centred, self.energy, self.common, self.losses):
            each[b, r] = each[b, 0]


def _measure(subject: Subject, batch: Batch, b: int, seed: int, parameters: list[nn.Parameter], rows: _Rows) -> None:
    """Write the gradients of one batch under all noise draws."""
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    scores = task.scorer(batch.tokens.patches)
    noise = Noise(seed, range(len(batch.ids)))
    rows.spread[b] = float(scores.detach().std(-1).mean())
    first: Tensor | None = None
    for r in range(rows.raw.shape[1]):
        if r and rows.deterministic:
            rows.repeat(b, r)
            continue
        words = f"{name} (batch {b + 1}, draw {r + 1})"
        gradient = score_gradient(task, operator, k, batch, scores, noise.draw(r), words)
        rows.losses[b, r] = float(gradient.losses.double().mean())
        u = gradient.u
        if u is None:
            continue
        if b == 0 and r == 1:  # the self-test: two draws of the first batch give the very same gradient
            rows.deterministic = first is not None and torch.equal(u, first)
        first = u if first is None else first
        write_scorer_gradient(rows.raw[b, r], scores, parameters, u)
        write_scorer_gradient(rows.centred[b, r], scores, parameters, centred(u))
        rows.energy[b, r] = float(u.double().square().sum())
        rows.common[b, r] = float(u.double().mean(-1).square().sum() * u.shape[-1])


def _groups(scorer: nn.Module) -> tuple[tuple[str, ...], list[int]]:
    """Return parameter groups by module and their sizes: ``hidden``, ``out``; ``blocks.0``, ``blocks.1``, ``norm``."""
    sizes: dict[str, int] = {}
    for full, parameter in scorer.named_parameters():
        if parameter.requires_grad:
            head, *rest = full.split(".")
            group = f"{head}.{rest[0]}" if rest and rest[0].isdigit() else head
            sizes[group] = sizes.get(group, 0) + parameter.numel()
    return tuple(sizes), list(sizes.values())

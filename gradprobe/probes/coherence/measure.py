"""Measurement of coherence: gradients of batches and noise draws, and their inner products."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gradprobe.core import AnyOperator, Batch, Noise, Task
from gradprobe.deferred import deferring
from gradprobe.probes.coherence import PROBE, CoherenceSettings
from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.probes.contract import Budget, Reporting, Resources, Subject, question_of
from gradprobe.probes.determinism import Recorder, declared_stochastic, repeats
from gradprobe.probes.environment import environment
from gradprobe.probes.gradients import (
    centred,
    gram_by_group,
    home_of_rows,
    real_parameters,
    score_gradient,
    write_scorer_gradient,
)
from gradprobe.settings import takes
from gradprobe.training.memory import Limit, halving
from gradprobe.training.train import train
from gradprobe.training.workers import groups_of


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
    with task.running(), deferring():
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
    energy, common, losses = rows.numbers.cpu().numpy()
    return CoherenceResult(
        question=question,
        groups=groups,
        gradient="yes" if energy.any() else "none",
        gram=np.stack(grams).astype(np.float32),  # a cosine needs no more, and the store is half as large
        energy=energy,
        common=common,
        losses=losses,
        spread=rows.spread.cpu().numpy(),
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
    """Gradient rows of all batches and draws, and the per-batch numbers beside them, which wait for no device."""

    def __init__(self, batches: int, draws: int, parameters: list[nn.Parameter]):
        shape, like = (batches, draws, sum(p.numel() for p in parameters)), parameters[0]
        home = home_of_rows(2 * math.prod(shape), like)
        self.raw, self.centred = (torch.zeros(shape, dtype=like.dtype, device=home) for _ in range(2))
        self.numbers = torch.zeros(3, batches, draws, dtype=torch.float64, device=like.device)
        self.energy, self.common, self.losses = self.numbers
        self.spread = torch.zeros(batches, dtype=torch.float64, device=like.device)
        self.deterministic, self.limit = False, Limit()

    def begin(self, b: int) -> None:
        """Forget the numbers of a batch, to which its parts are added."""
        self.numbers[:, b] = 0
        self.spread[b] = 0

    def repeat(self, b: int, r: int) -> None:
        """Copy draw 0 of a batch to draw r, for an operator without noise."""
        for each in (self.raw, self.centred, self.energy, self.common, self.losses):
            each[b, r] = each[b, 0]


def _measure(subject: Subject, batch: Batch, b: int, seed: int, parameters: list[nn.Parameter], rows: _Rows) -> None:
    """Write the gradients of one batch under all noise draws; where memory is full, from parts of it."""
    size, draws = len(batch.ids), rows.raw.shape[1]

    def measure_parts(images: int) -> None:
        rows.begin(b)
        for start, part in zip(range(0, size, images), groups_of(batch, images), strict=True):
            _add_part(subject, part, (b, start, size), seed, parameters, rows)

    halving(measure_parts, size, batch.tokens.patches.device, rows.limit)
    for r in range(1, draws) if rows.deterministic else ():
        rows.repeat(b, r)


def _add_part(
    subject: Subject,
    part: Batch,
    place: tuple[int, int, int],
    seed: int,
    parameters: list[nn.Parameter],
    rows: _Rows,
) -> None:
    """Add the gradients of some images of a batch.

    Args:
        subject: whose operator is measured.
        part: the images.
        place: number of the batch, the first image's place in it, and its size.
        seed: of the noise.
        parameters: the scorer's.
        rows: what is added to.
    """
    (b, start, size), task, k, name = place, subject.task, subject.k, subject.name
    scores, share = task.scorer(part.tokens.patches), len(part.ids) / size
    noise = Noise(seed, range(start, start + len(part.ids)), generator=task.generator)
    if scores.shape[1] > 1:  # a single score has no spread
        rows.spread[b] += scores.detach().std(-1).mean() * share
    for r in range(rows.raw.shape[1]):
        if r and rows.deterministic:
            return
        words = f"{name} (batch {b + 1}, draw {r + 1})"
        tested = b == r == start == 0 and not declared_stochastic(subject.operator)
        operator = Recorder(subject.operator) if tested else subject.operator
        gradient = score_gradient(task, operator, k, part, scores, noise.draw(r), words)
        rows.losses[b, r] += gradient.losses.double().mean() * share
        u = gradient.u
        if u is None:
            continue
        if isinstance(operator, Recorder):
            rows.deterministic = repeats(operator, words)
        for out, each in ((rows.raw, u), (rows.centred, centred(u))):
            write_scorer_gradient(out[b, r], scores, parameters, each, images=size, add=start > 0)
        rows.energy[b, r] += u.double().square().sum()
        rows.common[b, r] += u.double().mean(-1).square().sum() * u.shape[-1]


def _groups(scorer: nn.Module) -> tuple[tuple[str, ...], list[int]]:
    """Return parameter groups by module and their sizes: ``hidden``, ``out``; ``blocks.0``, ``blocks.1``, ``norm``."""
    sizes: dict[str, int] = {}
    for full, parameter in scorer.named_parameters():
        if parameter.requires_grad:
            head, *rest = full.split(".")
            group = f"{head}.{rest[0]}" if rest and rest[0].isdigit() else head
            sizes[group] = sizes.get(group, 0) + parameter.numel()
    return tuple(sizes), list(sizes.values())

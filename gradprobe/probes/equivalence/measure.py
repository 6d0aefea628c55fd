"""Measurement of equivalence: classes of images under scores that are not trained."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gradprobe.core import AnyOperator, Batch, Noise, Stream, Task, apply
from gradprobe.deferred import deferring
from gradprobe.errors import UsageError
from gradprobe.models.rankings import Selecting, code_of_plan
from gradprobe.operators.temperature import temperature
from gradprobe.probes.contract import Budget, Reporting, Resources, Subject, Threads, question_of
from gradprobe.probes.environment import environment
from gradprobe.probes.equivalence import PROBE, RANDOM, EquivalenceSettings
from gradprobe.probes.equivalence.result import EquivalenceResult
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.selectors.plan import plan_of
from gradprobe.settings import takes
from gradprobe.training.memory import rows_for
from gradprobe.training.workers import over_groups, workers_for


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, Threads, EquivalenceSettings, Budget):
    """Keyword arguments of `equivalence`."""


@takes(Arguments)
def equivalence(task: Task, operator: AnyOperator, given: Arguments) -> EquivalenceResult:
    """Rank the right class of each image when an operator keeps K of N tokens by scores that are pure noise.

    ``s_i ~ N(0, 1)``, keyed by the image: the same for every operator and every K, so that results are paired; or the
    scores of a selector (1 for a token that it keeps where it has none). The task's scorer plays no part.

    Returns:
        A result whose ``row(baseline)`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible, or a selector that gives no scores here.
        GradprobeError: a loss that is not finite, too few images, or an operator that breaks its contract.

    Source: DiffPrune, Fig. 4b.
    """
    return measure(Subject.of(task, operator, given), given, Resources.of(given))


def measure(subject: Subject, settings: EquivalenceSettings, resources: Resources) -> EquivalenceResult:
    """Answer the question of a subject and settings, see `equivalence`."""
    question = question_of(PROBE, subject, settings)
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    images, seed = settings.images, settings.seed
    started, scores_of = time.perf_counter(), _scores_of(subject, settings)

    def judge(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        noise, patches = Noise(seed, batch.ids, generator=task.generator), batch.tokens.patches
        with torch.no_grad():
            scores = scores_of(batch)
            selection = apply(operator, patches, scores, k, noise, name)
            losses, ranks = task.judged(selection, batch)
        refuse_nonfinite(losses, "loss", name, batch)
        return ranks, losses.float()

    size = _batch_size(task, images)
    batches = task.batches(images // size, size, seed)  # refuses at once if there are too few images
    ids, parts = list[int](), []
    with task.running(), deferring():
        for batch, part in over_groups(judge, batches, workers_for(task, resources.workers)):
            ids += batch.ids
            parts.append(part)
            resources.report(f"{name}, K = {k}", len(ids), images)
        ranks, losses = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    return EquivalenceResult(
        question=question,
        ranks=ranks.astype(np.int32),
        losses=losses,
        ids=np.array(ids, np.int64),
        tokens=task.n_tokens,
        tau=temperature(operator),
        environment=environment(time.perf_counter() - started, task.skipped),
    )


def random_scores(noise: Noise, patches: torch.Tensor) -> torch.Tensor:
    """Return Gaussian scores ``(B, N)`` for patches ``(B, N, D)``, keyed by the image, apart from all operators' noise.

    Example:
        >>> random_scores(Noise(0, (7, 8)), torch.zeros(2, 196, 3)).shape
        torch.Size([2, 196])
    """
    return noise.stream(Stream.EQUIVALENCE_SCORES).normal(patches.shape[1:2], like=patches)


def check(subject: Subject, settings: EquivalenceSettings) -> dict[str, str | None]:
    """Return the scorer as a key that the question does not have, and the selector that stands in its place.

    Raises:
        UsageError: no such selector, or one that is asked inside a language model.
    """
    own: dict[str, str | None] = {"scorer": None}
    if settings.scores == RANDOM:
        return own
    plan = plan_of(settings.scores)
    if plan.inside:
        outside = "equivalence is of scores before the rest of the model reads anything"
        raise UsageError(f"--scores {settings.scores} is not possible: {outside}; name a selector without @LAYER")
    return own | {"scores": plan.label, "scores_code": code_of_plan(plan)}


def _scores_of(subject: Subject, settings: EquivalenceSettings) -> Callable[[Batch], torch.Tensor]:
    """Return the scores ``(B, N)`` of a batch, as a function."""
    task, seed = subject.task, settings.seed
    if settings.scores != RANDOM:
        chosen = Selecting.of(task, settings.scores, subject.k, seed)

        def scores(batch: Batch) -> torch.Tensor:
            told = chosen.choose(batch).scores
            assert told is not None  # `check` refuses plans inside a language model
            return told.to(batch.tokens.patches)

        return scores
    return lambda batch: random_scores(Noise(seed, batch.ids, generator=task.generator), batch.tokens.patches)


def _batch_size(task: Task, images: int) -> int:
    """Return the largest part of all images that an encoder call takes."""
    most = rows_for(next(task.scorer.parameters()).device, task.n_tokens)
    return max(size for size in range(1, most + 1) if images % size == 0)

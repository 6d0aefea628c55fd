"""Ranking: similarity of the tokens that are kept, and of those that are ranked last."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream
from gradprobe.deferred import deferring
from gradprobe.errors import UsageError
from gradprobe.models.rankings import Selecting
from gradprobe.models.similarity import cosines, ends_of, mean_cosine, some_of
from gradprobe.probes.contract import Ranking, Resources, Subject, question_of
from gradprobe.probes.environment import environment
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.probes.ranking import PROBE, RankingSettings
from gradprobe.probes.ranking.result import RankingResult
from gradprobe.probes.recipe import check_recipe
from gradprobe.selectors.plan import plan_of
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, over_groups, workers_for

CELL = 8  # pixels along an edge of a token in the picture that is kept

Scores = Callable[[Batch], Tensor]


@dataclass(frozen=True, eq=False)
class Ends:
    """Ends of the ranking of some images.

    Attributes:
        means: mean cosine of two tokens within top, within bottom, across, and of all tokens, ``(B, 4)``.
        relevant: share of tokens that matter in top, in bottom and of all, ``(B, 3)``; ``(B, 0)`` where unknown.
        scores: of the first image's tokens, ``(N,)``.
        ends: numbers of its K first and of its K last tokens, ``(2K,)``.
        similarity: cosines of these, ``(2K, 2K)``.
    """

    means: np.ndarray
    relevant: np.ndarray
    scores: np.ndarray
    ends: np.ndarray
    similarity: np.ndarray


def measure(subject: Subject, settings: RankingSettings, resources: Resources) -> RankingResult:
    """Answer the question of a subject and settings.

    Of each test image the K tokens of the highest scores and the K of the lowest are compared by the cosines of two
    different tokens at the insertion point: within the top, within the bottom, across, and of any two of the N.

    Raises:
        UsageError: a number outside what is possible, or a plan that drops tokens inside a language model.
        GradprobeError: no gradient to train with, a loss or score that is not finite, or too few images.
    """
    question, started = question_of(PROBE, subject, settings), time.perf_counter()
    task, threads = subject.task, workers_for(subject.task, resources.workers)
    label = f"{subject.name}, K = {subject.k}, seed {settings.seed}"
    (test,) = task.batches(1, settings.images, settings.seed)
    parts: list[Ends] = []
    with task.running(), deferring():
        scores = _scores(subject, settings, threads, partial(resources.report, f"{label}: training"))
        for _, part in over_groups(partial(_ends, scores, subject), groups_of(test), threads):
            parts.append(part)
            resources.report(f"{label}: test", sum(len(each.means) for each in parts), settings.images)
    cells, grids = _cells(task.picture(settings.seed))
    first = parts[0]
    return RankingResult(
        question=question,
        scored=_scored(subject),
        means=np.concatenate([part.means for part in parts]).astype(np.float32),
        relevant=np.concatenate([part.relevant for part in parts]).astype(np.float32),
        scores=first.scores.astype(np.float32),
        ends=first.ends.astype(np.int32),
        similarity=first.similarity.astype(np.float16),
        cells=cells,
        grids=grids,
        environment=environment(time.perf_counter() - started, task.skipped),
    )


def check(subject: Subject, settings: RankingSettings) -> Mapping[str, Any]:
    """Refuse ends that overlap or have one token, and what cannot be trained or ranked.

    Raises:
        UsageError: as said, and see `gradprobe.probes.recipe.check_recipe`.
    """
    k, n = subject.k, subject.task.n_tokens
    if not 2 <= k <= n // 2:
        remedy = f"give --k 2 to --k {n // 2}" if n > 3 else "give images with more tokens"
        raise UsageError(
            f"--k {k} is not possible: the first and the last K of {n} tokens are compared, each in pairs; {remedy}"
        )
    if isinstance(subject.operator, Ranking) and (plan := plan_of(subject.operator.name)).inside:
        raise UsageError(
            f"{plan.label} drops tokens inside the language model; the ranking is of the {n} tokens before it, so "
            "name a selector without @LAYER, such as divprune"
        )
    return check_recipe(subject, settings)


def _scored(subject: Subject) -> bool:
    """Tell whether there are scores; else a selector keeps a set."""
    if not isinstance(subject.operator, Ranking):
        return True
    outside = plan_of(subject.operator.name).outside
    return outside is not None and hasattr(outside.selector, "scores")


def _scores(subject: Subject, settings: RankingSettings, threads: int, report: Callable[[int, int], None]) -> Scores:
    """Return the scores of a plan, or train the scorer as retention does and return its own.

    Where a selector keeps a set, its K tokens come first and those that it drops follow in a random order.
    """
    task, k, name, seed = subject.task, subject.k, subject.name, settings.seed
    if isinstance(subject.operator, Ranking):
        selecting, scored = Selecting.of(task, subject.operator.name, k, seed), _scored(subject)

        def of_plan(batch: Batch) -> Tensor:
            scores = selecting.choose(batch).scores
            assert scores is not None  # `check` refuses plans inside a language model
            if scored:
                return scores
            noise = Noise(seed, batch.ids, generator=task.generator).stream(Stream.RANKING).draw(1)
            return scores + (1 - scores) * noise.uniform(scores.shape[1:], like=scores) / 2

        return of_plan
    recipe = Recipe(**{f.name: getattr(settings, f.name) for f in fields(Recipe)})
    for step in ScorerTrainer(task, subject.operator, k, name, recipe, threads).run():
        report(step, recipe.steps)
    return lambda batch: task.scorer(batch.tokens.patches)


def _ends(scoring: Scores, subject: Subject, batch: Batch) -> Ends:
    patches, k = batch.tokens.patches, subject.k
    with torch.no_grad():
        scores = scoring(batch)
        refuse_nonfinite(scores, "score", subject.name, batch)
        ends = ends_of(scores, k)
        top, bottom = (some_of(patches, end) for end in ends.split(k, 1))
        within = mean_cosine(top), mean_cosine(bottom), mean_cosine(top, bottom), mean_cosine(patches)
        shares = scores.new_zeros((len(scores), 0))
        if batch.relevant is not None:
            hits = batch.relevant.double()
            first, last = (hits.gather(1, end).mean(1) for end in ends.split(k, 1))
            shares = torch.stack([first, last, hits.mean(1)], 1)
        similarity = cosines(patches[:1], ends[:1])[0]
    arrays = (torch.stack(within, 1), shares, scores[0], ends[0], similarity)
    means, relevant, *shown = (x.cpu().numpy() for x in arrays)
    return Ends(means, relevant, *shown)


def _cells(pictures: tuple[tuple[np.ndarray, tuple[int, int]], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of each token of some pictures, ``(N, c, c, 3)``, and the pictures' rows and columns."""
    cells = [np.zeros((0, CELL, CELL, 3), np.uint8)]
    for picture, (rows, columns) in pictures:
        pixels = Image.fromarray((255 * picture).round().astype(np.uint8))
        small = np.asarray(pixels.resize((columns * CELL, rows * CELL), Image.Resampling.BOX))
        cells.append(small.reshape(rows, CELL, columns, CELL, 3).swapaxes(1, 2).reshape(-1, CELL, CELL, 3))
    return np.concatenate(cells), np.array([grid for _, grid in pictures], np.int32).reshape(-1, 2)

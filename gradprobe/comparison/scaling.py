"""Figure A1, retention over the pruning rate for sizes of a model, from answers of the retention probe (no torch).

Of K tokens kept of N the pruning rate is ``r = 1 - K/N``. The retention ``R(r)`` of a part is, for one kind of
questions, the accuracy with K deployed tokens over that with all N on the same images; ``average`` is the mean of the
kinds' retentions. At ``r = 0`` it is 1 by definition. Over seeds it is the mean, with the interval of
`gradprobe.statistics.retained.pooled` in which images are nested in seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradprobe.data.pictures_text import KINDS
from gradprobe.errors import UsageError
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.probes.seeds import check_seeds, shares_images
from gradprobe.settings import RANKED
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.retained import Graded, pooled, retention

AVERAGE = "average"
DIFFERENT = ("backbone", "weights", "k", "seed")  # keys of a question in which points of the figure may differ


@dataclass(frozen=True, eq=False)
class Point:
    """Retention of one model at one pruning rate in one part.

    Attributes:
        retention: Mean over seeds; its ends are NaN with two to four seeds, and over images alone with one.
        by_seed: Retention by seed.
        unpruned: Accuracy with all N tokens, mean over seeds (and kinds, for the average).
        images: Graded images of the part by seed.
        shared: True if the seeds have their images in common.
    """

    retention: Estimate
    by_seed: Mapping[int, float]
    unpruned: float
    images: Mapping[int, Graded]
    shared: bool


@dataclass(frozen=True, eq=False)
class Scaling:
    """Points of Figure A1.

    Attributes:
        models: Names of the sizes, the smallest first.
        parts: ``average`` and the kinds of questions.
        budgets: Every K, the largest first, which is the order of the pruning rates.
        n_tokens: N.
        points: Points by model, part and K, as far as there are answers.
    """

    models: tuple[str, ...]
    parts: tuple[str, ...]
    budgets: tuple[int, ...]
    n_tokens: int
    points: Mapping[tuple[str, str, int], Point]

    def rate(self, k: int) -> float:
        """Return the pruning rate of a budget, 1 - K/N."""
        return 1 - k / self.n_tokens

    def curve(self, model: str, part: str) -> dict[int, Point]:
        """Return the points of a model in a part by K, in the order of the pruning rates."""
        return {k: self.points[model, part, k] for k in self.budgets if (model, part, k) in self.points}


def scaling(panels: Mapping[str, Sequence[RetentionResult]], budgets: Sequence[int], n_tokens: int) -> Scaling:
    """Pool results into points.

    Args:
        panels: Results by model, the smallest first; a model without results keeps its place.
        budgets: Every K that is asked about.
        n_tokens: N.

    Raises:
        UsageError: No results, a K that prunes nothing, or answers that were not asked alike.
        GradprobeError: Two answers to the same question under one seed.
    """
    results = [result for each in panels.values() for result in each]
    if not results:
        raise UsageError("no retention to draw over the pruning rate; give at least one result")
    if wrong := [k for k in budgets if not 0 < k < n_tokens]:
        raise UsageError(
            f"K = {wrong[0]} of {n_tokens} tokens is no point over the pruning rate; give 1..{n_tokens - 1}"
        )
    if len({_common(result.question) for result in results}) > 1:
        raise UsageError(f"sizes are compared on answers that differ in {', '.join(DIFFERENT)} alone; make them alike")
    points: dict[tuple[str, str, int], Point] = {}
    for model, each in panels.items():
        for k in budgets:
            if group := [result for result in each if result.question["k"] == k]:
                check_seeds(group)
                points |= {(model, part, k): point for part, point in _points(group).items()}
    parts = [part for part in (AVERAGE, *KINDS) if any(each == part for _, each, _ in points)]
    return Scaling(tuple(panels), tuple(parts), tuple(sorted(budgets, reverse=True)), n_tokens, points)


def scaling_of(experiment: Any, answers: Sequence[Any]) -> Scaling:
    """Return the points of a preset: a panel a model, the smallest first, and N as ``tokens`` of its first [[paper]].

    Raises:
        UsageError: The preset does not say N.
    """
    tokens = experiment.paper[0].get("tokens") if experiment.paper else None
    if not isinstance(tokens, int):
        raise UsageError(f"{experiment.name} needs N in its first [[paper]] table; write: tokens = 100")
    panels: dict[str, list[RetentionResult]] = {run.panel: [] for run in experiment.runs}
    for answer in answers:
        panels[answer.run.panel].append(answer.result)
    return scaling(panels, sorted({run.question["k"] for run in experiment.runs}), tokens)


def _points(group: Sequence[RetentionResult]) -> dict[str, Point]:
    """Return the points of a model at one K: the average and, where there are several, each kind."""
    graded = {r.question["seed"]: Graded(r.correct, r.unpruned, r.kind) for r in group}
    trained, shared = not str(group[0].question["op"]).startswith(RANKED), shares_images(group)
    kinds = np.unique(group[0].kind)
    parts = {AVERAGE: graded}
    if len(kinds) > 1:
        parts |= {KINDS[i]: {seed: _only(images, i) for seed, images in graded.items()} for i in kinds}
    return {
        part: Point(
            pooled(list(own.values()), trained, shared),
            {seed: retention(images).value for seed, images in own.items()},
            float(np.mean([images.unpruned.mean() for images in own.values()])),
            own,
            shared,
        )
        for part, own in parts.items()
    }


def _only(images: Graded, kind: int) -> Graded:
    """Return the images of one kind."""
    those = images.kind == kind
    return Graded(images.correct[those], images.unpruned[those], np.zeros(0, np.uint8))


def _common(question: Mapping[str, Any]) -> str:
    return repr(sorted((name, value) for name, value in question.items() if name not in DIFFERENT))

"""What the retention probe found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradprobe.store.results import check_shapes, kind

if TYPE_CHECKING:
    from gradprobe.statistics.estimates import Estimate

RANKED = "ranked:"
GENERATED = ("scenes", "pictures")  # data of which every seed has test images of its own


@kind
@dataclass(frozen=True, eq=False)
class RetentionResult:
    """What a scorer trained through an operator retains once hard top-K is deployed, for one seed.

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key. Its ``op`` is an operator, or
            ``ranked:NAME`` for a ranking that needs no training.
        losses: mean loss of each training step through the operator, ``(S,)``.
        at: training steps after which the deployed accuracy was looked at, ``(C,)``.
        curve: whether each of the first images was right then, ``(C, I')``.
        correct: whether each test image is right with the K deployed tokens at the end, ``(I,)``.
        unpruned: whether it is right with all N, ``(I,)``.
        auc: how well the scores tell the tokens that matter from others, ``(I,)``; empty where nobody knows them.
        kind: which kind of question is asked about each test image, ``(I,)``; empty where there is one kind. Retention
            is then the mean over kinds.
        spread: standard deviation of an image's scores, mean over images, before and after training, ``(2,)``.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    losses: np.ndarray
    at: np.ndarray
    curve: np.ndarray
    correct: np.ndarray
    unpruned: np.ndarray
    auc: np.ndarray
    spread: np.ndarray
    environment: dict[str, Any]
    kind: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    probe: ClassVar[str] = "retention"

    def __post_init__(self) -> None:
        images = (len(self.correct),)
        known, kind = (images if len(x) else (0,) for x in (self.auc, self.kind))
        looks = (len(self.at), self.curve.shape[1] if self.curve.ndim == 2 else 0)
        check_shapes(self, {
            "losses": (len(self.losses),), "curve": looks, "unpruned": images, "auc": known, "spread": (2,),
            "kind": kind,
        })  # fmt: skip

    def row(self, baseline: "RetentionResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """The result as a row of the retention table, over its images; see `over_seeds` for several seeds.

        Args:
            baseline: the same question asked of another operator.
            path: where the result is stored.
        """
        return over_seeds([self], None if baseline is None else [baseline], [path])


def over_seeds(
    results: Sequence[RetentionResult],
    baseline: Sequence[RetentionResult] | None = None,
    paths: Sequence[Path | None] = (),
) -> dict[str, Any]:
    """One row for the same operator under several seeds: retention is accuracy over that of the unpruned model.

    Where there are kinds of questions it is the mean of their ratios. With one seed the interval is Bonett and Price's
    over the test images (`statistics.ratios.paired_ratio`) and says nothing about another training; with two to four
    seeds there is none, and ``by_seed`` is what to read; from five on it holds seeds and images nested
    (`statistics.ratios.over_seeds`). A ranking is not trained: its seeds are more images. Differences to the baseline
    likewise: of the same test images for one seed, of the same seeds in pairs for five or more.

    Args:
        results: of one operator, a seed each.
        baseline: another operator's results; those of the same seeds are paired.
        paths: where the results are stored.

    Returns:
        Plain numbers, strings and None (undefined), ready for JSON. ``difference_seeds`` counts the pairs.
    """
    from gradprobe.statistics.estimates import finite

    asked = results[0].question
    kept = [retained(r) for r in results]
    estimate = _pooled(results, kept)
    by_seed = {r.question["seed"]: r for r in results}
    pairs = [(by_seed[r.question["seed"]], r) for r in baseline or () if r.question["seed"] in by_seed]
    above = _difference(pairs) if pairs else None
    aucs = [float(np.nanmean(r.auc)) for r in results if len(r.auc)]
    fresh = [
        np.mean([x.value for x in _ratios(first, *(x[: len(first)] for x in (r.unpruned, r.kind)))])
        for r in results for first in r.curve[:1]
    ]  # fmt: skip
    numbers = {
        "retention": estimate.value, "low": estimate.low, "high": estimate.high,
        "by_seed": [finite(x.value) for x in kept],
        "accuracy": float(np.mean([r.correct.mean() for r in results])),
        "unpruned": float(np.mean([r.unpruned.mean() for r in results])),
        "auc": float(np.mean(aucs)) if aucs else None,
        "loss": float(np.mean([r.losses[-20:].mean() for r in results])) if len(results[0].losses) else None,
        "untrained": float(np.mean(fresh)) if fresh else None,
        "spread": float(np.mean([r.spread[1] for r in results])),
        "by_kind": [[finite(x.value) for x in by_kind(r)] for r in results] if len(results[0].kind) else None,
        "difference": above and above.value, "difference_low": above and above.low,
        "difference_high": above and above.high, "difference_seeds": len(pairs) or None,
    }  # fmt: skip
    behind = {"denoiser": asked["denoiser"]} if "denoiser" in asked else {}
    return {
        "op": asked["op"], **behind, "k": asked["k"], **{name: finite(value) for name, value in numbers.items()},
        "seeds": list(by_seed), "steps": asked["steps"], "images": len(results[0].correct),
        "seconds": [r.environment.get("seconds") for r in results],
        "paths": [str(p) for p in paths if p is not None],
    }  # fmt: skip


def seed_groups(results: Sequence[RetentionResult]) -> list[list[RetentionResult]]:
    """Results that differ in nothing but their seeds, together, in the order of the first of each."""
    found: dict[str, list[RetentionResult]] = {}
    for result in results:
        asked: dict[str, Any] = {n: v for n, v in result.question.items() if n != "seed"}
        if str(asked.get("weights")).startswith("random:"):  # the seed's too
            asked["weights"] = "random"
        found.setdefault(repr(sorted(asked.items())), []).append(result)
    return list(found.values())


def retained(result: RetentionResult) -> "Estimate":
    """Retention of one result, over its test images."""
    from gradprobe.statistics.ratios import mean_of

    kinds = by_kind(result)
    return mean_of(kinds) if len(kinds) > 1 else kinds[0]


def by_kind(result: RetentionResult) -> "list[Estimate]":
    """Retention of each kind of question, over the test images; kinds have no image in common."""
    return _ratios(result.correct, result.unpruned, result.kind)


def variance(result: RetentionResult) -> float:
    """Variance of a retention over its test images, never 0."""
    from gradprobe.statistics.ratios import relative_variance

    counts = _counts(result.correct, result.unpruned, result.kind)
    parts = [((c.both + c.ours + 1) / (c.both + c.theirs + 1)) ** 2 * relative_variance(c) for c in counts]
    return float(np.sum(parts)) / len(parts) ** 2


def _pooled(results: Sequence[RetentionResult], kept: "Sequence[Estimate]") -> "Estimate":
    """Mean over seeds, with its interval."""
    from gradprobe.statistics.ratios import mean_of
    from gradprobe.statistics.ratios import over_seeds as nested

    if len(results) == 1:
        return kept[0]
    if str(results[0].question["op"]).startswith(RANKED):
        return mean_of(kept, _shared(results))
    most = 1 / max(float(np.mean([r.unpruned.mean() for r in results])), 1e-300)
    return nested([e.value for e in kept], [variance(r) for r in results], kept, _shared(results), most)


def _difference(pairs: Sequence[tuple[RetentionResult, RetentionResult]]) -> "Estimate":
    """Mean over seeds of the difference of two operators' retentions, with its interval."""
    from gradprobe.statistics.estimates import Estimate
    from gradprobe.statistics.ratios import mean_of, retained_difference, seeds_difference

    values = [retained(a).value - retained(b).value for a, b in pairs]
    same = [np.array_equal(a.unpruned, b.unpruned) and np.array_equal(a.kind, b.kind) for a, b in pairs]
    if not all(same):  # images are not paired
        return Estimate(float(np.mean(values)), np.nan, np.nan)
    tables = [_pairs(a, b) for a, b in pairs]
    over_images = [mean_of([retained_difference(*each) for each in kinds]) for kinds in tables]
    if len(pairs) == 1:
        return Estimate(values[0], over_images[0].low, over_images[0].high)
    most = 1 / max(float(np.mean([a.unpruned.mean() for a, _ in pairs])), 1e-300)
    spread = [
        sum((p.gained + p.lost + 1) / max(u, 1) ** 2 for p, u in kinds) / len(kinds) ** 2 for kinds in tables
    ]  # fmt: skip
    return seeds_difference(values, spread, _shared([a for a, _ in pairs]), most)


def _shared(results: Sequence[RetentionResult]) -> bool:
    """Tell whether seeds may have test images in common: those of a folder; generated ones are each seed's own."""
    return len(results) > 1 and results[0].question.get("data") not in GENERATED


def _pairs(ours: RetentionResult, theirs: RetentionResult) -> list[Any]:
    """For each kind of question, how two operators fare on the same images, and how many the unpruned model gets."""
    from gradprobe.statistics.proportions import Pairs

    found = []
    for those in _kinds(ours.kind, len(ours.correct)):
        a, b = ours.correct[those].astype(bool), theirs.correct[those].astype(bool)
        found.append((Pairs(int((a & ~b).sum()), int((b & ~a).sum()), len(a)), int(ours.unpruned[those].sum())))
    return found


def _ratios(right: np.ndarray, unpruned: np.ndarray, kind: np.ndarray) -> "list[Estimate]":
    from gradprobe.statistics.ratios import paired_ratio

    return [paired_ratio(counts) for counts in _counts(right, unpruned, kind)]


def _counts(right: np.ndarray, unpruned: np.ndarray, kind: np.ndarray) -> list[Any]:
    from gradprobe.statistics.ratios import Paired

    found = []
    for those in _kinds(kind, len(right)):
        a, b = right[those].astype(bool), unpruned[those].astype(bool)
        found.append(Paired(int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())))
    return found


def _kinds(kind: np.ndarray, images: int) -> list[np.ndarray]:
    """Masks of the images of each kind of question."""
    return [kind == each for each in np.unique(kind)] if len(kind) else [np.ones(images, bool)]

"""What the retention probe found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradprobe.store import check_shapes, kind

if TYPE_CHECKING:
    from gradprobe.statistics import Jackknifed


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

    Where there are kinds of questions it is the mean of their ratios. With two or more seeds the interval is a t
    interval of their mean, so it holds what training, its images and the noise decide; with one seed it is a jackknife
    over the test images and says nothing about training. Differences to the baseline likewise: of the same seeds in
    pairs, or of the same test images.

    Args:
        results: of one operator, a seed each.
        baseline: another operator's results; those of the same seeds are paired.
        paths: where the results are stored.

    Returns:
        Plain numbers, strings and None (undefined), ready for JSON.
    """
    from gradprobe.statistics import batch_mean, finite

    asked = results[0].question
    kept = [_kept(r).value for r in results]
    estimate = batch_mean(np.array(kept)).estimate() if len(results) > 1 else _kept(results[0]).estimate()
    by_seed = {r.question["seed"]: r for r in results}
    pairs = [(by_seed[r.question["seed"]], r) for r in baseline or () if r.question["seed"] in by_seed]
    above = batch_mean(np.array([_kept(a).value - _kept(b).value for a, b in pairs])).estimate() if pairs else None
    if len(pairs) == 1 and len(pairs[0][0].correct) == len(pairs[0][1].correct):
        above = _kept(pairs[0][0]).map(lambda a, b: a - b, _kept(pairs[0][1])).estimate()
    aucs = [float(np.nanmean(r.auc)) for r in results if len(r.auc)]
    fresh = [
        _over(first, *(x[: len(first)] for x in (r.unpruned, r.kind))).value for r in results for first in r.curve[:1]
    ]
    numbers = {
        "retention": estimate.value, "low": estimate.low, "high": estimate.high, "by_seed": [finite(x) for x in kept],
        "accuracy": float(np.mean([r.correct.mean() for r in results])),
        "unpruned": float(np.mean([r.unpruned.mean() for r in results])),
        "auc": float(np.mean(aucs)) if aucs else None,
        "loss": float(np.mean([r.losses[-20:].mean() for r in results])) if len(results[0].losses) else None,
        "untrained": float(np.mean(fresh)) if fresh else None,
        "spread": float(np.mean([r.spread[1] for r in results])),
        "by_kind": [[finite(x.value) for x in by_kind(r)] for r in results] if len(results[0].kind) else None,
        "difference": above and above.value, "difference_low": above and above.low,
        "difference_high": above and above.high,
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


def _kept(result: RetentionResult) -> "Jackknifed":
    """Retention of one result, over its test images."""
    return _over(result.correct, result.unpruned, result.kind)


def by_kind(result: RetentionResult) -> "list[Jackknifed]":
    """Retention of each kind of question, over the test images."""
    return _ratios(result.correct, result.unpruned, result.kind)


def _over(right: np.ndarray, unpruned: np.ndarray, kind: np.ndarray) -> "Jackknifed":
    first, *others = _ratios(right, unpruned, kind)
    for other in others:
        first = first.map(lambda a, b: a + b, other)
    return first.map(lambda a: a / (1 + len(others))) if others else first


def _ratios(right: np.ndarray, unpruned: np.ndarray, kind: np.ndarray) -> "list[Jackknifed]":
    from gradprobe.statistics import batch_mean

    among = [kind == each for each in np.unique(kind)] if len(kind) else [np.ones(len(right), bool)]
    means = [[batch_mean((x * those).astype(float)) for x in (right, unpruned)] for those in among]
    return [a.map(lambda x, y: x / y, b) for a, b in means]

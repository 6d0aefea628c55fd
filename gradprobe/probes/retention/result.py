"""Result of the retention probe for one seed, and its row over several."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.probes.seeds import seed_groups as seed_groups  # figures and ablations ask for it by this module
from gradprobe.probes.seeds import shares_images
from gradprobe.settings import RANKED
from gradprobe.store.results import check_shapes

if TYPE_CHECKING:
    from gradprobe.statistics.retained import Graded


@dataclass(frozen=True, eq=False, repr=False)
class RetentionResult(ProbeResult):
    """Accuracy that a scorer trained through an operator retains once hard top-K is deployed, for one seed.

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key. Its ``op`` is an operator, or
            ``ranked:NAME`` for a ranking that needs no training.
        losses: mean loss of each training step through the operator, ``(S,)``.
        at: training steps after which the deployed accuracy was measured, ``(C,)``.
        curve: whether each of the first images was right then, ``(C, I')``.
        correct: whether each test image is right with the K deployed tokens at the end, ``(I,)``.
        unpruned: whether it is right with all N, ``(I,)``.
        auc: AUC of the scores against the tokens that matter, ``(I,)``; empty where those are not known.
        kind: kind of question that is asked about each test image, ``(I,)``; empty where there is one kind. Where
            there are several, retention is the mean over kinds.
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
        auc, kinds = (images if len(x) else (0,) for x in (self.auc, self.kind))
        curve = (len(self.at), self.curve.shape[1] if self.curve.ndim == 2 else 0)
        shapes: dict[str, tuple[int, ...]] = {"losses": (len(self.losses),), "curve": curve, "unpruned": images}
        check_shapes(self, shapes | {"auc": auc, "kind": kinds, "spread": (2,)})

    def row(self, baseline: "RetentionResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return a row of the retention table, over the images of this seed; see `over_seeds` for several.

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
    """Return one row for the same operator under several seeds: its accuracy over that of the unpruned model.

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
        Plain numbers, strings and None (undefined), ready for JSON. ``difference_seeds`` counts the pairs;
        ``by_seed_error`` holds the standard error of each seed's value over its images.
    """
    from gradprobe.statistics.estimates import finite
    from gradprobe.statistics.retained import by_kind, difference, pooled, retention, standard_error

    question, seeds = results[0].question, [_graded(r) for r in results]
    estimate = pooled(seeds, not str(question["op"]).startswith(RANKED), shares_images(results))
    of_seed = {r.question["seed"]: r for r in results}
    paired = [r for r in baseline or () if r.question["seed"] in of_seed]
    ours = [of_seed[r.question["seed"]] for r in paired]
    pairs = [(_graded(a), _graded(b)) for a, b in zip(ours, paired, strict=True)]
    above = difference(pairs, shares_images(ours)) if pairs else None
    aucs = [float(np.nanmean(r.auc)) for r in results if len(r.auc)]
    fresh = [_fresh(r) for r in results if len(r.curve)]
    numbers = {
        "retention": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "by_seed": [finite(retention(each).value) for each in seeds],
        "by_seed_error": [standard_error(each) for each in seeds],
        "accuracy": float(np.mean([r.correct.mean() for r in results])),
        "unpruned": float(np.mean([r.unpruned.mean() for r in results])),
        "auc": float(np.mean(aucs)) if aucs else None,
        "loss": float(np.mean([r.losses[-20:].mean() for r in results])) if len(results[0].losses) else None,
        "untrained": float(np.mean(fresh)) if fresh else None,
        "spread": float(np.mean([r.spread[1] for r in results])),
        "by_kind": [[finite(x.value) for x in by_kind(each)] for each in seeds] if len(results[0].kind) else None,
        "difference": above and above.value,
        "difference_low": above and above.low,
        "difference_high": above and above.high,
        "difference_seeds": len(pairs) or None,
    }
    denoiser = {"denoiser": question["denoiser"]} if "denoiser" in question else {}
    return {
        "op": question["op"],
        **denoiser,
        "k": question["k"],
        **{name: finite(value) for name, value in numbers.items()},
        "seeds": list(of_seed),
        "steps": question["steps"],
        "images": len(results[0].correct),
        "seconds": [r.environment.get("seconds") for r in results],
        "paths": [str(p) for p in paths if p is not None],
    }


def _graded(result: RetentionResult) -> "Graded":
    from gradprobe.statistics.retained import Graded

    return Graded(result.correct, result.unpruned, result.kind)


def _fresh(result: RetentionResult) -> float:
    """Retention before training, on the images of the training curve."""
    from gradprobe.statistics.retained import Graded, by_kind

    first = result.curve[0]
    images = Graded(first, result.unpruned[: len(first)], result.kind[: len(first)])
    return float(np.mean([estimate.value for estimate in by_kind(images)]))

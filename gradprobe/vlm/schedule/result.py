"""Schedule that was chosen under one seed, its outcome on fresh images, and its row over several seeds (no torch)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.errors import UsageError
from gradprobe.probes.result import ProbeResult
from gradprobe.probes.seeds import check_seeds, shares_images
from gradprobe.statistics.estimates import Estimate, batch_mean, finite
from gradprobe.statistics.nested import nested
from gradprobe.statistics.proportions import Pairs, tango, wilson
from gradprobe.store.results import check_shapes

ANY, SHARE, SIGNED = (-np.inf, np.inf), (0.0, 1.0), (-1.0, 1.0)  # ranges


@dataclass(frozen=True, eq=False, repr=False)
class ScheduleResult(ProbeResult):
    """Schedule of one seed and its outcome on fresh images, whose order is the same for all kernels and budgets.

    Attributes:
        question: All that decides the numbers, JSON only; its hash is the key.
        counts: Visual tokens that each layer reads, ``(L,)``.
        share: Share of FLOPs that they take.
        chosen_loss: Caption loss of the schedule on the images that chose it.
        losses: Caption loss of each fresh image with tokens really dropped, ``(I,)``.
        right: Flag of a right answer, ``(I,)``; ``(0,)`` where the data have no questions.
        whole_losses: Caption loss of each fresh image with all tokens, ``(I,)``.
        whole_right: Flag of its right answer.
        violations: FLOPs spent beyond the budget after each update of the multiplier, before counts are repaired, as a
            share, ``(O,)``; negative where some are left. Of a grid ``(0,)``.
        grid: Schedules of the grid within the budget, ``(G, L)``; of a search ``(0, L)``.
        grid_losses: Their losses on the images that chose, ``(G,)``.
        environment: Versions, machine, seconds and date; not part of the key. ``chosen_seconds``: until it was chosen.

    Raises:
        GradprobeError: The arrays do not have these shapes.
    """

    question: dict[str, Any]
    counts: np.ndarray
    share: float
    chosen_loss: float
    losses: np.ndarray
    right: np.ndarray
    whole_losses: np.ndarray
    whole_right: np.ndarray
    violations: np.ndarray
    grid: np.ndarray
    grid_losses: np.ndarray
    environment: dict[str, Any]
    probe: ClassVar[str] = "schedule"

    def __post_init__(self) -> None:
        images, layers, asked = self.question["images"], self.counts.size, len(self.right)
        shapes = {"counts": (layers,), "losses": (images,), "right": (images if asked else 0,)}
        shapes |= {"whole_losses": (images,), "whole_right": (asked,)}
        shapes |= {"violations": (self.question.get("outer", 0),)}
        check_shapes(self, shapes | {"grid": (len(self.grid_losses), layers), "grid_losses": (len(self.grid),)})

    @property
    def loss(self) -> Estimate:
        """Mean caption loss of the fresh images."""
        return batch_mean(self.losses.astype(float)).estimate()

    @property
    def whole_loss(self) -> Estimate:
        """The same with all tokens."""
        return batch_mean(self.whole_losses.astype(float)).estimate()

    @property
    def accuracy(self) -> Estimate | None:
        """Share of right answers; None without questions."""
        return wilson(int(self.right.sum()), len(self.right)) if len(self.right) else None

    def difference(self, other: "ScheduleResult") -> Estimate:
        """Return the caption loss less that of another schedule on the same images.

        Raises:
            UsageError: They are other images.
        """
        self._check_alike(other)
        return batch_mean(self.losses.astype(float) - other.losses).estimate()

    def accuracy_difference(self, other: "ScheduleResult") -> Estimate | None:
        """Return the share of right answers less that of another schedule on the same images; None without questions.

        Raises:
            UsageError: They are other images.
        """
        self._check_alike(other)
        if not len(self.right):
            return None
        ours, theirs = self.right.astype(bool), other.right.astype(bool)
        return tango(Pairs(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours)))

    def row(self, baseline: "ScheduleResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return a row of the table, ready for JSON; see `over_seeds` for several.

        Args:
            baseline: Another schedule under the same seed, such as the grid's best at the budget.
            path: Where the result is stored.
        """
        return over_seeds([self], None if baseline is None else [baseline], [path])

    def _check_alike(self, other: "ScheduleResult") -> None:
        same = ("backbone", "weights", "data", "dtype", "validation", "images", "seed")
        if any(self.question.get(name) != other.question.get(name) for name in same):
            raise UsageError(
                f"schedules are compared on the same fresh images; give two answers alike in {', '.join(same)}"
            )


def over_seeds(
    results: Sequence[ScheduleResult],
    baseline: Sequence[ScheduleResult] | None = None,
    paths: Sequence[Path | None] = (),
) -> dict[str, Any]:
    """Return one row for the same question under several seeds.

    Intervals hold the seeds with their images nested, from five seeds on; of one seed they are over its images.

    Args:
        results: One a seed.
        baseline: Results of another kernel; those of the same seeds are paired, image by image.
        paths: Where the results are stored.

    Returns:
        Plain numbers, strings and None (undefined), ready for JSON: ``loss``, ``accuracy``, ``whole`` and, with a
        baseline, ``difference`` and ``accuracy_difference``, each with ``_low``, ``_high`` and ``_by_seed``.

    Raises:
        GradprobeError: The results differ in more than their seeds, or two are of one seed.
    """
    check_seeds(results)
    question, shared = results[0].question, shares_images(results)
    others = {each.question["seed"]: each for each in baseline or ()}
    pairs = [(r, others[r.question["seed"]]) for r in results if r.question["seed"] in others]
    numbers = _fields("loss", [r.loss for r in results], shared, ANY)
    numbers |= _fields("accuracy", [r.accuracy for r in results], shared, SHARE)
    numbers |= _fields("whole", [r.whole_loss for r in results], shared, ANY)
    if baseline is not None:
        numbers |= _fields("difference", [a.difference(b) for a, b in pairs], shared, ANY)
        own = [a.accuracy_difference(b) for a, b in pairs]
        numbers |= _fields("accuracy_difference", own, shared, SIGNED) | {"difference_seeds": len(pairs)}
    return {
        "op": question["op"],
        "kernel": question["kernel"],
        "budget": question["budget"],
        "share": float(np.mean([r.share for r in results])),
        "counts": [r.counts.tolist() for r in results],
        "chosen_loss": [r.chosen_loss for r in results],
        "violations": [r.violations.tolist() for r in results],
        **numbers,
        "seeds": [r.question["seed"] for r in results],
        "images": question["images"],
        "seconds": [r.environment.get("chosen_seconds") for r in results],
        "paths": [str(path) for path in paths if path is not None],
    }


def _fields(
    name: str, each: Sequence[Estimate | None], shared: bool, possible: tuple[float, float]
) -> dict[str, float | list[float | None] | None]:
    """Return a number's mean over seeds, the ends of its interval, and its values by seed."""
    known = [estimate for estimate in each if estimate is not None]
    mean = Estimate(np.nan, np.nan, np.nan)
    if known and len(known) == len(each):
        mean = known[0] if len(known) == 1 else nested(known, "identity", shared, possible)
    value, low, high = (finite(end) for end in asdict(mean).values())
    by_seed = [None if estimate is None else finite(estimate.value) for estimate in each]
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_by_seed": by_seed}

"""The measure of the fresh scorer by which candidates are ranked before any of them is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gradprobe.plotting.columns import figures, interval
from gradprobe.probes.fidelity import FidelitySettings
from gradprobe.statistics.agreement import Products, cut_estimate, estimate, ungated
from gradprobe.statistics.estimates import Estimate, Jackknifed, batch_mean, paired_difference

CONFIRMED: str | None = None  # "fidelity" or "descent": the one that experiments/predict_confirm.toml confirmed
WORDS = {
    "fidelity": "fidelity of the gradient in the scorer's parameters at sigma = 1",
    "descent": "descent of the deployed loss at a step of 0.01",
}
UNCONFIRMED = (
    "No measure of the fresh scorer is confirmed to predict retention (experiments/predict_confirm.toml), so this "
    "advice goes by short trainings alone."
)
SIGMAS, LADDER = (1.0,), (0.01,)
NOISE_DRAWS = 8
SIZES = ((16, 32, 32), (32, 64, 64), (64, 128, 128), (96, 128, 256))  # images, draws of the reference, held-out images
SHARE = 0.25  # of the budget


@dataclass(frozen=True)
class Measured:
    """Measure of a candidate.

    Attributes:
        label: of the candidate.
        value: with its interval.
        behind: the first candidate's value less this one's, paired on the same images; None for the first.
    """

    label: str
    value: Estimate
    behind: Estimate | None

    @property
    def apart(self) -> bool | None:
        """True if the interval of the difference excludes 0; None for the first."""
        return None if self.behind is None else self.behind.low > 0 or self.behind.high < 0


def ranked(measure: str, results: Mapping[str, Any]) -> list[Measured]:
    """Return candidates by their measure, the highest first; those without a gradient are left out.

    Cosines are the ungated ones, so that none drops out for being noisy.

    Args:
        measure: ``fidelity`` or ``descent``.
        results: of the fidelity probe by label, all of the same images and reference.
    """
    interval = cut_estimate if measure == "fidelity" else estimate
    statistics = {label: _statistic(measure, each) for label, each in results.items() if each.gradient == "yes"}
    order = sorted(statistics, key=lambda label: -np.nan_to_num(statistics[label].value, nan=-np.inf))
    placed = []
    for label in order:
        own, first = statistics[label], statistics[order[0]]
        behind = None if label == order[0] else paired_difference(first, own, interval)
        placed.append(Measured(label, interval(own), behind))
    return placed


def written(measure: str, value: float | None, low: float | None, high: float | None) -> str:
    """Return a value of a measure with its interval; a descent may be of any size.

    Example:
        >>> written("fidelity", 0.314, 0.21, 0.42), written("descent", 0.0123, 0.0112, 0.0134)
        ('0.31 [0.21, 0.42]', '0.012 [0.011, 0.013]')
    """
    return (figures if measure == "descent" else interval)(value, low, high)


def settings_for(size: tuple[int, int, int], available: int, seed: int) -> FidelitySettings:
    """Return the settings of a size's questions, with no more images than there are."""
    images, draws, held_out = size
    if available < images + held_out:
        images, held_out = available - available // 2, available // 2
    return FidelitySettings(
        sigmas=SIGMAS, ladder=LADDER, images=images, held_out=held_out, draws=draws, noise_draws=NOISE_DRAWS, seed=seed
    )


def size_for(steps: Sequence[float], pruned: float, budget: float) -> tuple[tuple[int, int, int], float]:
    """Return the largest size of the measure that a budget allows, the smallest if none, and its seconds.

    Args:
        steps: seconds an image of a training step, of each candidate.
        pruned: seconds an image of the deployed tokens.
        budget: seconds.

    Example:
        >>> [size_for([0.01] * 20, 0.001, budget)[0][0] for budget in (1, 100, 1000)]
        [16, 32, 96]
    """

    def seconds(size: tuple[int, int, int]) -> float:
        images, draws, held_out = size
        reference = pruned * (2 * draws * images + 2 * held_out)
        return reference + sum((NOISE_DRAWS + 2) * images * step + held_out * pruned for step in steps)

    fitting = [size for size in SIZES if seconds(size) <= budget] or [SIZES[0]]
    return fitting[-1], seconds(fitting[-1])


def _statistic(measure: str, result: Any) -> Jackknifed:
    products = Products(**{f.name: np.asarray(getattr(result, f.name), np.float64) for f in fields(Products)})
    if measure == "fidelity":
        return ungated(products, 0)["theta"]
    return batch_mean((products.held - products.after[0]) / float(products.ladder[0]))

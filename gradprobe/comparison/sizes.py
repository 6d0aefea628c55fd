"""Sizes of a comparison: amount of each probe, and the seconds that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from gradprobe.probes.cost.compared import GROUP
from gradprobe.probes.fidelity.compared import LADDER, SIGMAS

SETUP = 2.5  # seconds that a question takes beside its work: making the task, storing
RANKINGS = 4 * SETUP  # seconds of all rankings that need no training, under one seed
SEEDED, ONCE = ("coherence", "landscape", "fidelity", "retention"), ("equivalence", "cost")  # probes, by their seeds


@dataclass(frozen=True)
class Size:
    """Amount of each probe in a comparison.

    Attributes:
        batches: of coherence.
        batch_size: images in each, and in a training step.
        points: of the landscape line.
        line_images: that its loss is a mean of.
        fidelity_images: whose gradients are compared.
        draws: of the smoothed deployed loss.
        held_out: images that the descent is looked at on.
        equivalence_images: under random scores.
        steps: of training.
        test_images: of retention.
        seeds: of training.
        rounds: of timing.
    """

    batches: int
    batch_size: int
    points: int
    line_images: int
    fidelity_images: int
    draws: int
    held_out: int
    equivalence_images: int
    steps: int
    test_images: int
    seeds: int
    rounds: int


SIZES = {
    "tiny": Size(6, 8, 11, 8, 16, 32, 32, 64, 10, 64, 1, 6),
    "small": Size(12, 8, 21, 16, 32, 64, 64, 256, 30, 256, 2, 9),
    "medium": Size(16, 16, 41, 32, 64, 128, 256, 512, 60, 512, 2, 9),
    "large": Size(32, 16, 41, 64, 96, 128, 256, 1024, 100, 1000, 3, 15),
    "full": Size(64, 16, 81, 64, 192, 256, 256, 2048, 300, 1000, 5, 21),
}


@dataclass(frozen=True)
class Times:
    """Seconds an image on one thread: an operator's gradient, its forward pass, and that of the K deployed tokens."""

    gradient: float
    forward: float
    deployed: float


def estimate(size: Size, times: Mapping[str, Times], threads: int, seeds: int | None = None) -> float:
    """Return the seconds that a comparison of this size will take, from what was timed.

    Args:
        size: of the comparison.
        times: by operator.
        threads: at work.
        seeds: number that is asked by every probe that pools them; None: one, and the size's number of trainings.

    Example:
        >>> one = {"lapsum+vpnoise": Times(gradient=0.01, forward=0.003, deployed=0.001)}
        >>> estimate(SIZES["full"], one, 2) > 2 * estimate(SIZES["tiny"], one, 2)
        True
    """
    return sum(probe_seconds(probe, size, times, threads, seeds) for probe in (*SEEDED, *ONCE))


def probe_seconds(probe: str, size: Size, times: Mapping[str, Times], threads: int, seeds: int | None = None) -> float:
    """Return the seconds of a probe's part of a comparison, all operators and seeds; see `estimate`."""
    count = 1 if probe in ONCE else seeds or (size.seeds if probe == "retention" else 1)
    shared = shared_seconds(probe, size, times, threads)
    return count * (shared + sum(question_seconds(probe, size, each, times, threads) for each in times.values()))


def question_seconds(probe: str, size: Size, own: Times, times: Mapping[str, Times], threads: int) -> float:
    """Return the seconds of a probe's question about one operator, under one seed.

    A probe that this library does not know is taken to do no more than to be set up.

    Args:
        probe: its name.
        size: of the comparison.
        own: times of the operator.
        times: by operator; the first has the deployed tokens that all share.
        threads: at work.
    """
    s, h = size, next(iter(times.values())).deployed
    looked_at = 10 * min(256, s.test_images) + s.test_images
    work = {
        "coherence": 2 * s.batches * s.batch_size * own.gradient,
        "landscape": s.points * s.line_images * own.forward,
        "fidelity": 8 * s.fidelity_images * own.gradient + len(LADDER) * s.held_out * h,
        "retention": 1.2 * s.steps * s.batch_size * own.gradient + looked_at * h,
        "equivalence": s.equivalence_images * own.forward,
        "cost": threads * s.rounds * GROUP * (2 * own.gradient + 4 * own.forward),
    }
    return 1.3 * work.get(probe, 0.0) / threads + SETUP


def shared_seconds(probe: str, size: Size, times: Mapping[str, Times], threads: int) -> float:
    """Return the seconds of what a seed has once for all operators: fidelity's reference, retention's rankings."""
    if probe == "retention":
        return RANKINGS
    if probe != "fidelity":
        return 0.0
    h = next(iter(times.values())).deployed
    return 1.3 * len(SIGMAS) * h * (2 * size.draws * size.fidelity_images + len(LADDER) * size.held_out) / threads

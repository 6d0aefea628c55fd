"""Schedule of successive halving: how many candidates are trained how long, so that all of it fits a budget."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe.errors import UsageError
from gradprobe.probes.retention import IMAGES

LEAST_STEPS, LEAST_IMAGES = 5, 64
FINALISTS = 3  # at most, of the last rung
FACTORS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # one of so many stays from rung to rung
LOOKS, LOOK_IMAGES = 10, 256  # of a training curve, as in `gradprobe.probes.retention.training_run`
SETUP = 0.3  # seconds of a question beside its work


@dataclass(frozen=True)
class Rung:
    """Trainings of one length.

    Attributes:
        operators: candidates that are trained.
        steps: of each training.
        seeds: trainings of each candidate.
        images: test images.
    """

    operators: int
    steps: int
    seeds: int
    images: int


@dataclass(frozen=True)
class Full:
    """A training of full length.

    Attributes:
        steps: of the training.
        seeds: at most, in the last rung.
        images: test images.
        fewest: seeds of the last rung at least.
    """

    steps: int
    seeds: int
    images: int = IMAGES
    fewest: int = 1


@dataclass(frozen=True)
class Pace:
    """Seconds of the work.

    Attributes:
        steps: a training step, of each candidate that enters.
        pruned: an image with the deployed tokens.
        whole: an image with all tokens, loaded and embedded.
        floors: rankings without training that are measured beside the last rung.
    """

    steps: tuple[float, ...]
    pruned: float
    whole: float
    floors: int = 0


def seconds(rung: Rung, pace: Pace, last: bool = False) -> float:
    """Return the seconds of a rung whose candidates are the dearest.

    Args:
        rung: that is trained.
        pace: of the work.
        last: whether it is the last rung, with the rankings beside it.
    """
    looks = (min(LOOKS, rung.steps) + 1) * min(LOOK_IMAGES, rung.images) * pace.pruned
    test = looks + rung.images * (pace.pruned + pace.whole) + SETUP
    floor = (rung.images * (pace.pruned + 2 * pace.whole) + SETUP) * pace.floors * last
    dearest = sorted(pace.steps, reverse=True)[: rung.operators]
    return rung.seeds * (sum(rung.steps * step + test for step in dearest) + floor)


def schedule(pace: Pace, budget: float, full: Full) -> tuple[Rung, ...]:
    """Return the rungs: all candidates that enter, then the better half of them, ... at last two or three.

    Each rung gets its least and an equal share of what is left; where that is more than trainings of full length need,
    the rest goes on to the next. The last rung takes as many seeds as it can. If halving leaves no time for trainings
    of full length at the end, fewer stay from rung to rung; of the possible schedules, the one with the longest last
    trainings is chosen, and among these the one with most rungs. Test images grow with the length.

    Args:
        pace: of the work.
        budget: seconds.
        full: the training that is advised on.

    Raises:
        UsageError: the budget is too short for any schedule; the message names the least.

    Example:
        >>> for rung in schedule(Pace((0.2,) * 12, 0.001, 0.005), 200, Full(steps=100, seeds=3)): print(rung)
        Rung(operators=12, steps=16, seeds=1, images=160)
        Rung(operators=4, steps=48, seeds=1, images=480)
        Rung(operators=2, steps=100, seeds=1, images=1000)
    """
    ladders = list(dict.fromkeys(_counts(len(pace.steps), factor) for factor in FACTORS))
    possible = [rungs for counts in ladders if (rungs := _allotted(counts, pace, budget, full))]
    if not possible:
        raise UsageError(f"the shortest schedule takes {least(pace, full):.0f} s, which the budget does not leave")
    return max(possible, key=lambda rungs: (rungs[-1].steps, len(rungs)))


def least(pace: Pace, full: Full) -> float:
    """Return the seconds of the shortest schedule."""
    return min(sum(_leasts(_counts(len(pace.steps), factor), pace, full)) for factor in FACTORS)


def _counts(entering: int, factor: int) -> tuple[int, ...]:
    counts = [entering]
    while counts[-1] > FINALISTS:
        counts.append(max(FINALISTS - 1, -(-counts[-1] // factor)))
    return tuple(counts)


def _leasts(counts: Sequence[int], pace: Pace, full: Full) -> list[float]:
    """Return the least seconds of each rung."""
    lasts = [number == len(counts) - 1 for number in range(len(counts))]
    steps = min(LEAST_STEPS, full.steps)
    return [seconds(_rung(count, steps, full, last), pace, last) for count, last in zip(counts, lasts, strict=True)]


def _rung(count: int, steps: int, full: Full, last: bool) -> Rung:
    images = max(LEAST_IMAGES, round(full.images * steps / full.steps))
    return Rung(count, steps, full.fewest if last else 1, min(images, full.images))


def _allotted(counts: Sequence[int], pace: Pace, budget: float, full: Full) -> tuple[Rung, ...]:
    """Return the rungs of these numbers of candidates; none where the budget is below the least."""
    leasts = _leasts(counts, pace, full)
    spare = budget - sum(leasts)
    if spare < 0:
        return ()
    rungs, carried = [], 0.0
    for number, (count, own) in enumerate(zip(counts, leasts, strict=True)):
        last = number == len(counts) - 1
        time = own + spare / len(counts) + carried

        def taken(steps: int, count: int = count, last: bool = last) -> float:
            return seconds(_rung(count, steps, full, last), pace, last)

        steps = max(min(LEAST_STEPS, full.steps), bisect_right(range(1, full.steps + 1), time, key=taken))
        rung = _rung(count, steps, full, last)
        carried = time - taken(steps) if steps == full.steps else 0.0
        if last and steps == full.steps:
            affordable = int(full.fewest * time / taken(steps))
            rung = Rung(count, steps, max(full.fewest, min(full.seeds, affordable)), rung.images)
        rungs.append(rung)
    return tuple(rungs)

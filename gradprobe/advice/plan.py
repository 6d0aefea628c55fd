"""Plan of an advice: the size of its measure and the rungs of its trainings, so that all fit the budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.advice import measures
from gradprobe.advice.costs import Costs
from gradprobe.advice.schedule import Full, Pace, Rung, least, schedule, seconds
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.fidelity import FidelitySettings
from gradprobe.probes.retention import IMAGES

ENTER = 8  # candidates that are trained at all where a confirmed measure ranks them
FLOORS = ("random", "norm", "class-attention")  # rankings that a user can deploy


@dataclass(frozen=True)
class Wanted:
    """Wishes of the user.

    Attributes:
        budget: seconds.
        steps: of a training of full length.
        batch_size: images in a training step.
        seeds: in the order in which they are used.
        all_seeds: whether the last rung takes all of them, whatever the budget.
        confirm: whether anything is trained.
    """

    budget: float
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    all_seeds: bool
    confirm: bool


@dataclass(frozen=True)
class Plan:
    """Work that a budget allows, with the seconds of each part.

    Attributes:
        fidelity: settings of the measure; None: none is confirmed.
        entering: candidates of the first rung.
        rungs: of trainings; none if nothing is trained.
        timing: seconds that the timing took.
        measure: seconds of the measure.
        trainings: seconds of each rung.
    """

    fidelity: FidelitySettings | None
    entering: int
    rungs: tuple[Rung, ...]
    timing: float
    measure: float
    trainings: tuple[float, ...]

    @property
    def total(self) -> float:
        """Seconds of all of it."""
        return self.timing + self.measure + sum(self.trainings)


def planned(task: Any, ops: Sequence[str], costs: Costs, wanted: Wanted) -> Plan:
    """Return the work that a budget allows.

    Args:
        task: open.
        ops: name of each candidate's operator.
        costs: as timed here.
        wanted: budget, and the training that is advised on.

    Raises:
        UsageError: the budget is too short; the message names the least that works here.
        GradprobeError: no operator can be trained.
    """
    if not ops:
        raise GradprobeError(f"no operator can be trained; the first: {next(iter(costs.failed.values()), '')}")
    steps, left = tuple(costs.step[op] for op in ops), wanted.budget - costs.spent
    settings, measuring = None, 0.0
    if measures.CONFIRMED is not None:
        share = left * (measures.SHARE if wanted.confirm else 1)
        an_image = [step / wanted.batch_size for step in steps]
        size, measuring = measures.size_for(an_image, costs.pruned, share)
        settings = measures.settings_for(size, task.available(size[0] + size[2]), wanted.seeds[0])
        steps = tuple(sorted(steps, reverse=True)[:ENTER])
    pace = Pace(steps, costs.pruned, costs.whole, len(FLOORS))
    fewest = len(wanted.seeds) if wanted.all_seeds else 1
    full = Full(wanted.steps, len(wanted.seeds), task.available(IMAGES), fewest)
    shortest = measuring + (least(pace, full) if wanted.confirm else 0)
    if left < shortest:
        raise UsageError(
            f"--budget {wanted.budget:g}s is too short: here the timing of training steps takes {costs.spent:.0f} s "
            f"and the least after it {shortest:.0f} s; give at least --budget {_above(costs.spent + shortest)}s"
        )
    rungs = schedule(pace, left - measuring, full) if wanted.confirm else ()
    trainings = tuple(seconds(rung, pace, last=rung is rungs[-1]) for rung in rungs)
    return Plan(settings, len(steps), rungs, costs.spent, measuring, trainings)


def _above(least: float) -> int:
    """Return a round number of seconds with a tenth to spare, since another timing takes another time."""
    return int(-(-1.1 * least // 10) * 10)

"""Front of schedules over seeds, and the verdicts on two claims, from answers of the probe ``schedule`` (no torch).

At each budget a search is set against the best schedule of a grid, and a kernel of several steps against one step, on
the same fresh images under the same seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.plotting.columns import number, seeds
from gradprobe.settings import RANKED
from gradprobe.statistics.ratios import FEWEST_SEEDS
from gradprobe.vlm.schedule import GRID, KERNELS
from gradprobe.vlm.schedule.result import ScheduleResult, over_seeds

ONE_STEP = KERNELS[0]
NEAR = 0.1  # of the grid's loss; chosen, as the point of accuracy, before the searches were measured
POINT = 0.01
ABSENT, UNDECIDED = "not measured yet", "undecided"
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Front:
    """Rows of schedules.

    Attributes:
        selectors: Labels of the selectors, in the order of the preset.
        kernels: Kernels in their order, the grid last.
        budgets: Shares of FLOPs, ascending.
        results: Answers by selector, kernel and budget, one a seed.
    """

    selectors: tuple[str, ...]
    kernels: tuple[str, ...]
    budgets: tuple[float, ...]
    results: Mapping[tuple[str, str, float], Sequence[ScheduleResult]]

    def row(self, selector: str, kernel: str, budget: float, baseline: str | None = None) -> dict[str, Any] | None:
        """Return a schedule's row over its seeds, compared with that of another kernel; None without answers."""
        if not (own := self.results.get((selector, kernel, budget))):
            return None
        return over_seeds(own, None if baseline is None else self.results.get((selector, baseline, budget), ()))

    def whole(self, selector: str) -> float:
        """Return the loss with all tokens, the mean over the seeds of a selector's answers."""
        each = {
            r.question["seed"]: r.whole_loss.value
            for (s, *_), own in self.results.items()
            for r in own
            if s == selector
        }
        return sum(each.values()) / len(each) if each else float("nan")

    @property
    def seeds(self) -> int:
        """Largest number of seeds of a schedule."""
        return max(len(each) for each in self.results.values())


def front_of(results: Sequence[ScheduleResult], asked: Sequence[Mapping[str, Any]] = ()) -> Front:
    """Group answers.

    Args:
        results: Answers, any number of seeds each.
        asked: Questions of a preset, whose selectors and budgets keep their places without an answer.

    Raises:
        UsageError: No answers.
    """
    if not results:
        raise UsageError("no schedules to draw; give one answer at least")
    questions = [*asked, *(result.question for result in results)]
    grouped: dict[tuple[str, str, float], list[ScheduleResult]] = {}
    for result in results:
        q = result.question
        grouped.setdefault((selector_name(q), q["kernel"], q["budget"]), []).append(result)
    kernels = {q["kernel"] for q in questions}
    return Front(
        tuple(dict.fromkeys(selector_name(q) for q in questions)),
        tuple(kernel for kernel in KERNELS if kernel in kernels),
        tuple(sorted({q["budget"] for q in questions})),
        grouped,
    )


def selector_name(question: Mapping[str, Any]) -> str:
    """Return the label of a question's selector."""
    return str(question["op"]).removeprefix(RANKED)


def against_grid(row: Row, grid: Row) -> str:
    """Return ``better``, ``near``, ``worse`` or ``undecided`` for a search beside the grid's best; see `verdicts`."""
    low, high = row["difference_low"], row["difference_high"]
    if row["difference_seeds"] < FEWEST_SEEDS or low is None or high is None:
        return UNDECIDED
    if high < 0:
        return "better"
    if high < NEAR * grid["loss"]:
        return "near"
    return "worse" if low > 0 else UNDECIDED


def against_step(row: Row) -> str:
    """Return ``better``, ``worse`` or ``undecided`` for several steps beside one."""
    low, high = row["difference_low"], row["difference_high"]
    if row["difference_seeds"] < FEWEST_SEEDS or low is None or high is None or low <= 0 <= high:
        return UNDECIDED
    return "better" if high < 0 else "worse"


def verdicts(front: Front) -> list[str]:
    """Return a sentence for each claim of the abstract.

    A search approximates the front where the interval of its loss less that of the grid's best within the budget lies
    below a tenth of the latter: ``better`` if below 0, else ``near``. The claim is confirmed if that is so at every
    budget and selector, refuted if it is ``worse`` at one. That progressive pruning is better than one step is
    confirmed for a kernel if its loss is lower everywhere.
    """
    sentences = []
    for kernel in front.kernels:
        if kernel != GRID:
            cells = _cells(front, kernel, GRID)
            told = {name: against_grid(*pair) if pair else ABSENT for name, pair in cells.items()}
            claim = _claim(told, ("better", "near")) + _accuracy([pair[0] for pair in cells.values() if pair])
            sentences.append(f"{kernel} approximates the front of the grid: {claim}")
    for kernel in front.kernels:
        if kernel not in (GRID, ONE_STEP) and ONE_STEP in front.kernels:
            steps = _cells(front, kernel, ONE_STEP)
            told = {name: against_step(pair[0]) if pair else ABSENT for name, pair in steps.items()}
            sentences.append(f"{kernel} is better than one step: {_claim(told, ('better',))}")
    return [*sentences, rule(front)]


def rule(front: Front) -> str:
    """Return the words for the verdicts and intervals."""
    few = f"; fewer than {FEWEST_SEEDS} seeds decide nothing" if front.seeds < FEWEST_SEEDS else ""
    images = next(iter(front.results.values()))[0].question["images"]
    return (
        f"better, worse: the 95 % interval of the paired difference excludes 0; near: it lies below a tenth of the "
        f"grid's loss. Intervals: {images} fresh images nested in {seeds(front.seeds)}{few}"
    )


def _cells(front: Front, kernel: str, other: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]] | None]:
    """Return the row and that of another kernel by selector and budget; None where one has no answer to pair."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]] | None] = {}
    for selector in front.selectors:
        for budget in front.budgets:
            row, base = front.row(selector, kernel, budget, other), front.row(selector, other, budget)
            paired = row is not None and base is not None and row["difference_seeds"]
            found[f"{selector} {budget:g}"] = (row, base) if paired and row and base else None
    return found


def _claim(told: Mapping[str, str], good: Sequence[str]) -> str:
    """Return the verdict of a claim, and where which one holds."""
    if len(set(told.values())) == 1 and (only := next(iter(told.values()))) in (ABSENT, UNDECIDED):
        return only
    where: dict[str, list[str]] = {}
    for name, verdict in told.items():
        where.setdefault(verdict, []).append(name)
    each = "; ".join(f"{verdict} at {', '.join(names)}" for verdict, names in where.items())
    if len(where) == 1:
        each = f"{next(iter(where))} at all {len(told)}"
    whole = "confirmed" if set(where) <= set(good) else "not confirmed" if "worse" in where else UNDECIDED
    return f"{whole} ({each})"


def _accuracy(rows: Sequence[Row]) -> str:
    """Return the range of accuracies less the grid's, in points, and if within one; empty without questions."""
    known = [row for row in rows if row["accuracy_difference"] is not None]
    if not known:
        return ""
    values = [100 * row["accuracy_difference"] for row in known]
    lows = [row["accuracy_difference_low"] for row in known if row["difference_seeds"] >= FEWEST_SEEDS]
    within = sum(low is not None and low > -POINT for low in lows)
    span = " to ".join(dict.fromkeys(number(x, 1) for x in (min(values), max(values))))
    words = f"; accuracy {span} points from the grid's"
    return f"{words}, decided within {100 * POINT:.0f} at {within} of {len(known)}"

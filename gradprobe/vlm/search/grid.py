"""The empirical front: all non-increasing schedules of a few counts, measured and stored one by one."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from math import comb
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, open_regular
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import Deployed, deployed
from gradprobe.vlm.search.spending import Spending

Counts = tuple[int, ...]
SHARES = (1.0, 0.5, 0.25, 0.11, 0.03)  # of N, unless counts are named
MOST = 2000  # schedules


@dataclass(frozen=True)
class Measurements:
    """Schedules as they are deployed.

    Attributes:
        outcomes: Of each schedule, in the order of measurement.
        seconds: Time that they took.
    """

    outcomes: dict[Counts, Deployed]
    seconds: float = 0.0


def schedules(spending: Spending, counts: Sequence[int], budget: float) -> list[Counts]:
    """Return all non-increasing schedules of some counts within a budget, layer 0 at N, the cheapest first.

    Args:
        spending: FLOPs of the model.
        counts: 1..N; none: shares of N.
        budget: Largest share of FLOPs.

    Raises:
        UsageError: A count that is not possible, too many schedules, or none.
    """
    n, layers = spending.tokens, spending.layers
    each = sorted(set(counts) or {max(1, round(share * n)) for share in SHARES}, reverse=True)
    if wrong := [k for k in each if not 1 <= k <= n]:
        raise UsageError(f"--grid-counts {wrong[0]} is not possible with {n} visual tokens; give counts from 1 to {n}")
    number = comb(layers - 1 + len(each) - 1, layers - 1)
    if number > 100 * MOST:
        raise _too_many(number, layers, each)
    made = [(n, *rest) for rest in combinations_with_replacement(each, layers - 1)]
    fitting = sorted((schedule for schedule in made if spending.share(schedule) <= budget), key=spending.flops)
    if len(fitting) > MOST:
        raise _too_many(len(fitting), layers, each)
    if not fitting:
        raise UsageError(
            f"no schedule of --grid-counts {_text(each)} has the budget {budget:g}; give smaller ones, as 1"
        )
    return fitting


def measurements(
    asked: Search,
    wanted: Sequence[Counts],
    file: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: Mapping[Counts, Deployed] = MappingProxyType({}),
) -> Measurements:
    """Measure schedules on the held-out images; those that a file holds are taken from it, and each is added to it.

    Args:
        asked: Model, data and selector.
        wanted: The schedules.
        file: It need not be there.
        progress: Called with (done, of how many).
        known: Schedules that were measured for the same question before, and are not measured again.

    Raises:
        UsageError: The file is of another question.
        GradprobeError: A loss is no finite number, or the file cannot be read or written.
    """
    found = _read(asked, file)
    outcomes, seconds = {**known, **found.outcomes}, found.seconds
    for done, counts in enumerate(wanted):
        progress(done, len(wanted))
        if counts not in outcomes:
            begun = time.perf_counter()
            outcomes[counts] = deployed(asked.task, asked.selector, counts, asked.groups, asked.settings.seed)
            seconds += time.perf_counter() - begun
            _write(asked, Measurements(outcomes, seconds), file)
    progress(len(wanted), len(wanted))
    return Measurements({counts: outcomes[counts] for counts in wanted}, seconds)


def best(measured: Measurements, spending: Spending, share: float) -> Counts | None:
    """Return the schedule of the least loss that takes no more than a share of FLOPs; None without one."""
    fitting = [counts for counts in measured.outcomes if spending.share(counts) <= share]
    return min(fitting, key=lambda counts: (measured.outcomes[counts].loss, counts), default=None)


def _read(asked: Search, file: Path) -> Measurements:
    if not file.exists():
        return Measurements({})
    try:
        with open_regular(file) as opened:
            content: dict[str, Any] = json.loads(opened.read())
        outcomes = {tuple(map(int, each["counts"])): Deployed(**each["deployed"]) for each in content["schedules"]}
        question, seconds = content["question"], float(content["seconds"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise GradprobeError(f"{file} holds no measured schedules ({reason}); delete it, or give --restart") from None
    if question != asked.question:
        raise UsageError(
            f"{file} holds schedules of another model, selector or images; give another --out, or --restart to begin "
            "anew in this one"
        )
    return Measurements(outcomes, seconds)


def _write(asked: Search, measured: Measurements, file: Path) -> None:
    rows = [{"counts": list(counts), "deployed": asdict(each)} for counts, each in measured.outcomes.items()]
    content = {"question": asked.question, "seconds": measured.seconds, "schedules": rows}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, (json.dumps(content) + "\n").encode())
    except OSError as error:
        raise GradprobeError(f"cannot write {file}: {error.strerror or error}; give another --out") from None


def _too_many(number: int, layers: int, counts: Sequence[int]) -> UsageError:
    return UsageError(
        f"--grid has {number:,} schedules of the counts {_text(counts)} in {layers} layers; at most {MOST:,} are "
        f"measured: give fewer counts, such as --grid-counts {counts[0]},{counts[-1]}, or a smaller budget"
    )


def _text(counts: Sequence[int]) -> str:
    return ",".join(map(str, counts))

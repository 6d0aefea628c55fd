"""Many questions, answered by many processes or machines; the answers go to one store.

The unit is a question. Questions that nothing but this process can answer, and those whose numbers are timings, are
answered here, after all others.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, Notice
from gradprobe.operators import registry
from gradprobe.parallel.calls import Outcome, call_of
from gradprobe.parallel.heartbeats import Watch, killed, run_folder
from gradprobe.parallel.pools import Broken, Pool
from gradprobe.parallel.scheme import check_crew, opened
from gradprobe.parallel.worker import KILLS, given_up
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Progress, Resources
from gradprobe.store.record import key_of
from gradprobe.store.results import Store

STATE = "state:"  # of `gradprobe.models.own_models`, which needs torch
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)  # seconds, for other processes that are at the same questions
TRIES = 3  # at a folder that cannot be written, and at workers that end before they begin


@dataclass(frozen=True)
class Asked:
    """A question to be answered, as `gradprobe.probes.opened.answered` takes it.

    Attributes:
        question: all that decides the numbers, in JSON types.
        where: places of its files: ``weights``, ``data``, ``train_data`` and ``device``.
    """

    question: Mapping[str, Any]
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Crew:
    """The processes that answer questions; without ``jobs`` and ``cluster`` it is the caller's alone.

    Attributes:
        jobs: number of processes on this machine; with ``cluster``, the most questions at a time, and for ``slurm`` the
            number of batch jobs.
        cluster: ``dask://HOST:PORT``, ``ray://HOST:PORT`` or ``slurm``.
    """

    jobs: int | None = None
    cluster: str | None = None

    @property
    def many(self) -> bool:
        """True if other processes answer the questions."""
        return self.jobs is not None or self.cluster is not None


def answer_all(
    asked: Sequence[Asked], stores: Sequence[Store], crew: Crew, progress: Progress | None = None, force: bool = False
) -> dict[str, str]:
    """Answer every question that no store has, and save the answers in the last store.

    A question about a model that was handed over as an object is left to the caller, who holds it.

    Args:
        asked: the questions; one that is asked twice is answered once.
        stores: searched in order; what is measured is saved in the last.
        crew: the processes.
        progress: called with (description, done, of how many), maybe by another thread; a description with an
            attribute ``line`` replaces the one before of that line, and ``of`` is 0 when the line ends.
        force: measure even if an answer is stored.

    Returns:
        Why a question stays without an answer, by its key.

    Raises:
        UsageError: a crew that is not possible.
        GradprobeError: a scheduler that cannot be reached, a worker with another gradprobe, or a store that is not
            shared or cannot be written.
    """
    check_crew(crew.jobs, crew.cluster)
    wanted = {key_of(each.question): each for each in asked}
    todo = {key: each for key, each in wanted.items() if not _foreign(each) and (force or not _has(stores, each))}
    if not todo:
        return {}
    stores[-1].check_writable()
    here = {key: each for key, each in todo.items() if not crew.many or _stays(each)}
    away = {key: each for key, each in todo.items() if key not in here}
    reasons: dict[str, str] = {}
    if away:
        root = Path(stores[-1].root).resolve()
        with ExitStack() as held:
            pool = held.enter_context(opened(crew.jobs, crew.cluster, progress))
            folder = held.enter_context(run_folder(root))
            watch = held.enter_context(Watch(folder, progress))
            reasons = _Work(away, stores, folder, watch, force, len(todo)).done_by(pool)
    return reasons | _answered_here(here, stores, progress, force, len(todo))


class _Work:
    """Questions on their way, asked in passes until each has an answer or a reason."""

    def __init__(
        self, away: Mapping[str, Asked], stores: Sequence[Store], folder: Path, watch: Watch, force: bool, total: int
    ):
        self._away, self._pending, self._stores, self._folder, self._watch = away, dict(away), stores, folder, watch
        self._force, self._total, self._finished, self._told = force, total, 0, 0
        self._before = {key: _stamp(stores[-1], each) for key, each in away.items()}
        self._reasons: dict[str, str] = {}
        self._busy: dict[str, str] = {}
        self._failures: dict[str, int] = {}

    def done_by(self, pool: Pool) -> dict[str, str]:
        """Ask until nothing is pending; return the reasons of questions without an answer."""
        waits, broken = list(WAITS), 0
        self._tell()
        if not pool.streams:
            self._watch.each_second = self._tell_stored
        while self._pending:
            before, self._busy = len(self._pending), {}
            deaths = self._deaths()
            try:
                self._ask(pool)
            except Broken as error:
                self._settle_lost()
                broken = 0 if self._deaths() > deaths or len(self._pending) < before else broken + 1
                if broken >= TRIES:
                    raise GradprobeError(f"the workers end before they answer anything: {error}") from None
                continue
            if len(self._pending) < before:
                waits = list(WAITS)
            elif self._pending.keys() == self._busy.keys() and not self._watch.alive():
                if not waits:
                    return self._reasons | self._busy
                self._wait(waits.pop(0))
            elif self._busy:
                self._wait(WAITS[0])
        return self._reasons

    def _ask(self, pool: Pool) -> None:
        """Ask what is pending once; what was being answered whenever workers were killed comes last, one at a time."""
        roots = [str(Path(store.root).resolve()) for store in self._stores]
        calls = [call_of(e.question, e.where, roots, self._folder, self._force) for e in self._pending.values()]
        suspects = {call["key"] for call in calls if killed(self._folder, call["key"]) >= KILLS - 1}
        for lone in (False, True):
            some = [call for call in calls if (call["key"] in suspects) == lone]
            for outcome in pool.ask(some, lone) if some else ():
                self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        """Note how a question went."""
        key, kind, reason = outcome["key"], outcome["kind"], outcome["reason"]
        for notice in outcome["notices"]:
            warnings.warn(Notice(notice), stacklevel=2)
        if kind == "refused":
            raise GradprobeError(reason)
        if kind == "busy":
            self._busy[key] = reason
            return
        if kind == "unwritable":
            self._failures[key] = self._failures.get(key, 0) + 1
            if self._failures[key] < TRIES:
                return
        if kind != "answered":
            self._reasons[key] = reason
        self._end(key)

    def _settle_lost(self) -> None:
        """Note what was answered, or has to be given up, though no outcome came when workers were killed."""
        for key, each in list(self._pending.items()):
            if _stamp(self._stores[-1], each) != self._before[key]:
                self._end(key)
            elif (times := killed(self._folder, key)) >= KILLS:
                self._reasons[key] = given_up(times)
                self._end(key)

    def _end(self, key: str) -> None:
        if self._pending.pop(key, None) is not None:
            self._finished += 1
            self._tell()

    def _deaths(self) -> int:
        return sum(killed(self._folder, key) for key in self._pending)

    def _tell_stored(self) -> None:
        """Tell how many answers there are, where workers tell it only at the end."""
        new = sum(_stamp(self._stores[-1], self._away[key]) != self._before[key] for key in list(self._pending))
        self._told = max(self._told, self._finished + new)
        self._tell()

    def _tell(self) -> None:
        self._told = max(self._told, self._finished)
        self._watch.report(f"all {self._total} questions", self._told, self._total)

    def _wait(self, seconds: float) -> None:
        one = next(iter(self._busy.values()))
        if seconds > WAITS[1]:
            warnings.warn(Notice(f"waiting for other processes: {one}"), stacklevel=2)
        time.sleep(seconds)


def _answered_here(
    here: Mapping[str, Asked], stores: Sequence[Store], progress: Progress | None, force: bool, total: int
) -> dict[str, str]:
    """Answer questions in this process, one after another; return the reasons of those without an answer."""
    from gradprobe.probes.opened import OpenTasks, answered

    reasons: dict[str, str] = {}
    tasks, resources, left = OpenTasks(), Resources(progress=progress), list(here.values())
    for i, (key, each) in enumerate(here.items()):
        resources.report(f"all {total} questions", total - len(left) + i, total)
        coming = [other.question for other in left[i + 1 :] if other.where == each.where]
        try:
            answered(each.question, each.where, stores, tasks, resources, force, coming)
        except GradprobeError as error:
            reasons[key] = str(error)
    resources.report(f"all {total} questions", total, total)
    return reasons


def _foreign(each: Asked) -> bool:
    """Return True if a question is about a model that was handed over as an object."""
    return str(each.question.get("weights")).startswith(STATE)


def _stays(each: Asked) -> bool:
    """Return True if a question is answered in this process: its operator is an object, or its numbers are timings."""
    try:
        alone = probe_of(str(each.question.get("probe"))).alone
    except GradprobeError:
        alone = True  # the reason is told when it is asked
    return alone or registry.is_object(str(each.question.get("op")))


def _has(stores: Sequence[Store], each: Asked) -> bool:
    """Return True if a store has an answer, or what is left of one."""
    return any(store.find(each.question) is not None for store in stores)


def _stamp(store: Store, each: Asked) -> tuple[int, int] | None:
    """Return what changes when an answer is written; None if there is none."""
    path = store.find(each.question)
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns

"""Keeping the time that a comparison may take: what is asked first, how large, and what is left out."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.comparison.agreed import Agreed, time_in_words
from gradprobe.comparison.sizes import RANKINGS, SETUP, Size, Times, probe_seconds, question_seconds, shared_seconds
from gradprobe.operators.temperature import family
from gradprobe.probes.contract import Progress
from gradprobe.probes.metrics import FEWEST_SEEDS
from gradprobe.settings import RANKED

Question = tuple[Any, Any, Any]  # probe, subject and settings
FIRST = ("retention", "fidelity", "cost")  # probes that the verdict needs
SPARE = 0.05  # of the time, that sizes are planned to leave
OVER = 0.1  # of the time, beyond which what is measured is stopped: an expectation was far too low

UNTRAINED = ", ranked"  # in the name of a kind of questions
RANKED_PLANS = 6  # rankings that need no training and that most tasks have

clock = time.monotonic


class OutOfTime(Exception):
    """Stop of a measurement, because the time of the comparison is over."""


@dataclass(frozen=True)
class Work:
    """The questions of a comparison, and how they are answered.

    Attributes:
        asked: name of a size -> every question of that size.
        further: name of a size and number of trainings -> the questions of retention's next seed.
        stored: whether a question has an answer.
        answer: measures a question, or takes its stored answer; told the questions that follow it in its group.
    """

    asked: Callable[[str], Sequence[Question]]
    further: Callable[[str, int], Sequence[Question]]
    stored: Callable[[Question], bool]
    answer: Callable[[Question, Sequence[Question]], None]


class Schedule:
    """The time of a comparison: seconds that questions are expected to take, corrected by those that they took.

    Args:
        budget: seconds in all.
        sizes: by name, smallest first.
        times: of each operator; empty if none could be timed.
        threads: at work.
        seeds: number that every probe is asked with; None: as many trainings as the size says.
        began: reading of `clock` when the comparison began, earlier by what is kept for what comes before and after.
    """

    def __init__(
        self, budget: float, sizes: Mapping[str, Size], times: Mapping[str, Times], threads: int,
        seeds: int | None = None, began: float | None = None,
    ):  # fmt: skip
        self.budget, self._sizes, self._times, self._threads, self._seeds = budget, sizes, times, threads, seeds
        self._began = clock() if began is None else began
        self._lacking = 0.0  # seconds expected of what was left out
        self._measuring = False  # so that an answer that is read is never stopped
        self._taken: dict[str, list[float]] = {}  # expected and taken seconds of what was measured, by kind

    def answer(self, work: Work, agreed: Agreed) -> None:
        """Answer the questions of a comparison within its time; what was agreed is changed on the way.

        Probes that the verdict needs come first. A probe has the size that leaves time for all that follow, never a
        larger one than the probe before; where the smallest does not fit, questions are left out. Time that remains
        trains further seeds.
        """
        self._began -= agreed.spent
        try:
            self._answer_probes(work, agreed)
            self._train_further(work, agreed)
            if not agreed.done:
                agreed.lines.append(self._told(agreed))
            agreed.done = True
        finally:
            agreed.spent = clock() - self._began

    def watched(self, progress: Progress | None) -> Progress:
        """Return a progress callback that stops what is measured once the time is over.

        Args:
            progress: called by it; None: nothing is.
        """

        def report(description: str, done: int, total: int) -> None:
            if progress is not None:
                progress(description, done, total)
            if self._measuring and clock() - self._began > (1 + OVER) * self.budget:
                raise OutOfTime(description)

        return report

    def first_size(self) -> str:
        """Return the name of the size that fits if every question takes as long as expected."""
        return self._size(("coherence", "landscape", "fidelity", "retention", "equivalence", "cost"), self._names[-1])

    def expected(self, question: Question, size: str, first: bool) -> float:
        """Return the seconds that a question will take, by what its kind took until now.

        Args:
            question: that is not stored.
            size: its name.
            first: of its probe and seed; it has the part that all operators share.
        """
        return self._guess(question, size, first) * self._ratio(_kind(question, first))

    def _answer_probes(self, work: Work, agreed: Agreed) -> None:
        names = _in_order({question[0].name for question in work.asked(next(iter(self._sizes)))})
        last = self._names[-1]
        for i, name in enumerate(names):
            size = agreed.sizes.get(name) or self._size(names[i:], last)
            if i and name not in agreed.sizes and size != last and names[i - 1] in agreed.sizes:
                agreed.lines.append(f"{name} and what follows it are {size} instead of {last}: {self._late()}")
            agreed.sizes[name] = last = size
            for group in _by_seed(question for question in work.asked(size) if question[0].name == name):
                self._answer_group(group, size, work, agreed)

    def _answer_group(self, group: Sequence[Question], size: str, work: Work, agreed: Agreed) -> None:
        """Answer the questions of one probe and seed, all or, where time runs out, those that still fit."""
        measured = 0
        ahead = sum(self.expected(q, size, i == 0) for i, q in enumerate(group) if not work.stored(q))
        fits = agreed.done or self._fits(ahead)
        for i, question in enumerate(group):
            label, coming = label_of(question), group[i + 1 :]
            if label in agreed.left:
                continue
            if work.stored(question) or agreed.done:
                work.answer(question, coming)
                continue
            seconds = self.expected(question, size, measured == 0)
            if not fits or not self._fits(seconds):
                agreed.left.append(label)
                self._lacking += seconds
                continue
            self._timed(question, coming, (size, measured == 0), work, agreed)
            measured += 1

    def _train_further(self, work: Work, agreed: Agreed) -> None:
        """Train further seeds of retention until they decide, while there is time."""
        size = agreed.sizes.get("retention")
        for count in agreed.trainings:
            group = work.further(str(size), count)
            for i, question in enumerate(group):
                if label_of(question) not in agreed.left:
                    work.answer(question, group[i + 1 :])
        if size is None or self._seeds is not None or agreed.left or agreed.done:
            return
        first = self._sizes[size].seeds + len(agreed.trainings) + 1
        for count in range(first, FEWEST_SEEDS + 1):
            group = work.further(size, count)
            ahead = sum(self.expected(q, size, i == 0) for i, q in enumerate(group) if not work.stored(q))
            if not self._fits(ahead):
                return
            agreed.trainings.append(count)
            for i, question in enumerate(group):
                if not self._timed(question, group[i + 1 :], (size, i == 0), work, agreed):
                    agreed.left += [label_of(other) for other in group[i + 1 :]]
                    return

    def _timed(
        self, question: Question, coming: Sequence[Question], which: tuple[str, bool], work: Work, agreed: Agreed
    ) -> bool:
        """Answer a question, and learn from its time; ``which`` is its size and whether it is the first.

        Returns:
            False if it was stopped, and is left out therefore.
        """
        before, stored, (size, first) = clock(), work.stored(question), which
        self._measuring = not stored
        try:
            work.answer(question, coming)
        except OutOfTime:
            agreed.left.append(label_of(question))
            self._lacking += max(self._guess(question, size, first), clock() - before)
            return False
        finally:
            self._measuring = False
        if not stored:
            sums = self._taken.setdefault(_kind(question, first), [0.0, 0.0])
            sums[0] += self._guess(question, size, first)
            sums[1] += clock() - before
        return True

    @property
    def _names(self) -> list[str]:
        return list(self._sizes)

    def _size(self, probes: Sequence[str], largest: str) -> str:
        """Return the largest size, up to a given one, that leaves time for some probes; the smallest if none does."""
        names = self._names[: self._names.index(largest) + 1]
        left = (1 - SPARE) * self.budget - (clock() - self._began)
        for name in reversed(names[1:]):
            if self._times and sum(self._probe(probe, name) for probe in probes) <= left:
                return name
        return names[0]

    def _probe(self, probe: str, size: str) -> float:
        return self._ratio(probe) * probe_seconds(probe, self._sizes[size], self._times, self._threads, self._seeds)

    def _guess(self, question: Question, size: str, first: bool) -> float:
        """Return the seconds of a question as they were expected at the start."""
        probe, subject, _ = question
        name = str(getattr(subject, "name", ""))
        if name.startswith(RANKED):
            return RANKINGS / RANKED_PLANS
        if not self._times:
            return SETUP
        own = self._times.get(name) or next((t for op, t in self._times.items() if family(op) == family(name)), None)
        own = own or max(self._times.values(), key=lambda t: t.forward)
        seconds = question_seconds(probe.name, self._sizes[size], own, self._times, self._threads)
        shared = probe.name == "fidelity" and first
        more = shared_seconds(probe.name, self._sizes[size], self._times, self._threads) if shared else 0.0
        return seconds + more

    def _ratio(self, kind: str) -> float:
        """Return the seconds that questions of a kind took over those expected; of all kinds where it is new.

        Rankings, which are set up more than they are measured, say nothing of what is measured.
        """
        pairs = (
            [self._taken[kind]]
            if kind in self._taken
            else [pair for other, pair in self._taken.items() if not other.endswith(UNTRAINED)]
        )
        expected, taken = (sum(each) for each in zip(*pairs, strict=True)) if pairs else (1.0, 1.0)
        return taken / expected

    def _fits(self, seconds: float) -> bool:
        return clock() - self._began + seconds <= self.budget

    def _late(self) -> str:
        return f"until here it took {self._ratio('everything'):.1f} times as long as expected"

    def _told(self, agreed: Agreed) -> str:
        spent = clock() - self._began
        told = f"{time_in_words(self.budget)} given, {time_in_words(spent)} taken"
        if agreed.trainings:
            return f"{told}, with {len(agreed.trainings)} further seeds of retention"
        return f"{told}; all would take about {time_in_words(spent + self._lacking)}" if self._lacking else told


def label_of(question: Question) -> str:
    """Return a question in words: probe, operator and seed."""
    probe, subject, settings = question
    return f"{probe.name} of {subject.name}, seed {getattr(settings, 'seed', 0)}"


def _in_order(names: Iterable[str]) -> list[str]:
    rest = sorted(names)
    return [*(name for name in FIRST if name in rest), *(name for name in rest if name not in FIRST)]


def _by_seed(questions: Iterable[Question]) -> list[list[Question]]:
    groups: dict[int, list[Question]] = {}
    for question in questions:
        groups.setdefault(getattr(question[2], "seed", 0), []).append(question)
    return list(groups.values())


def _kind(question: Question, first: bool) -> str:
    """Return the name under which the times of like questions are kept."""
    probe, subject, _ = question
    ranked = str(getattr(subject, "name", "")).startswith(RANKED)
    shared = ", first" if first and probe.name == "fidelity" else ""
    return f"{probe.name}{UNTRAINED}" if ranked else f"{probe.name}{shared}"

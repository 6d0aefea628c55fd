"""Rows of an advice: candidates, rungs and rankings, from what was timed, measured and trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.advice.candidates import Candidate, words
from gradprobe.advice.costs import Costs
from gradprobe.advice.halving import Trained
from gradprobe.advice.measures import Measured
from gradprobe.advice.plan import Plan
from gradprobe.probes.metrics import FEWEST_SEEDS
from gradprobe.probes.retention.result import over_seeds
from gradprobe.statistics.estimates import finite
from gradprobe.store.record import key_of

Row = dict[str, Any]
ENDS = {"": "value", "_low": "low", "_high": "high"}  # of an estimate


@dataclass(frozen=True)
class Evidence:
    """Everything that an advice rests on.

    Attributes:
        candidates: that could be trained, or that the measure ranked: by the measure, else the cheapest first.
        costs: of a training step of each.
        placed: by the confirmed measure; empty without one.
        rungs: trainings; empty if nothing was trained.
        floors: results of rankings without training, one a seed.
        failed: reason of each candidate that could not be measured or trained.
        plan: of the work.
        measured: seconds that the measure took.
    """

    candidates: Sequence[Candidate]
    costs: Costs
    placed: Sequence[Measured]
    rungs: Sequence[Trained]
    floors: Mapping[str, Sequence[Any]]
    failed: Mapping[str, str]
    plan: Plan
    measured: float

    @property
    def order(self) -> list[Candidate]:
        """Candidates in the order of the advice: those that came furthest first, then by retention there."""
        reached: dict[str, None] = {}
        for trained in reversed(self.rungs):
            reached |= dict.fromkeys(label for label in trained.results if label not in reached)
        known = {c.label: c for c in self.candidates}
        return [known[label] for label in dict.fromkeys([*reached, *known])]

    @property
    def best(self) -> Candidate:
        """The candidate to use."""
        return self.order[0]

    def last(self, label: str) -> tuple[int, Sequence[Any]] | None:
        """Return the last rung, from 1 on, that a candidate was trained in, and its results there."""
        rungs = [(number, t.results[label]) for number, t in enumerate(self.rungs, 1) if label in t.results]
        return rungs[-1] if rungs else None


def candidate_rows(evidence: Evidence) -> list[Row]:
    """Return a row for each candidate, in the order of the advice."""
    placed = {each.label: each for each in evidence.placed}
    cheapest = min(evidence.costs.step[c.op] for c in evidence.candidates)
    rows = []
    for c in evidence.order:
        row: Row = {"label": c.label, "op": c.op, "tau": words(c.tau), **_measured(placed.get(c.label))}
        row |= {"step": evidence.costs.step[c.op], "relative": evidence.costs.step[c.op] / cheapest}
        row |= {"rung": None, "steps": None, "retention": None, "low": None, "high": None, "by_seed": []}
        if (last := evidence.last(c.label)) is not None:
            number, results = last
            row |= {"rung": number, **_trained(results)}
        rows.append(row)
    return rows


def rung_rows(evidence: Evidence, seeds: Sequence[int]) -> list[Row]:
    """Return a row for each rung, with what was trained in it; ``spent`` leaves out trainings of an earlier rung."""
    rows, before = [], set[str]()
    for planned, t in zip(evidence.plan.trainings, evidence.rungs, strict=True):
        new = {label: [r for r in results if key_of(r.question) not in before] for label, results in t.results.items()}
        before |= {key_of(r.question) for results in new.values() for r in results}
        trained = [
            {"label": label, **_trained(results), "spent": seconds_of(new[label])}
            for label, results in t.results.items()
        ]
        row: Row = {"steps": t.rung.steps, "seeds": list(seeds[: t.rung.seeds]), "images": t.rung.images}
        spent = sum(each["spent"] for each in trained)
        rows.append({**row, "planned": planned, "spent": spent, "trained": trained, "failed": dict(t.failed)})
    return rows


def ranking_rows(evidence: Evidence) -> list[Row]:
    """Return a row for each ranking without training, with the best candidate's retention above it.

    ``as_good``: 5 seeds or more do not tell the candidate above it; with fewer, it is not above it under every seed by
    more than the test images explain.
    """
    if not evidence.rungs:
        return []
    best = evidence.rungs[-1].results[evidence.best.label]
    rows = []
    for name, results in evidence.floors.items():
        above = over_seeds(best, results)
        if len(best) < FEWEST_SEEDS:
            pairs = zip(best, results, strict=True)
            lows = [over_seeds([ours], [theirs])["difference_low"] for ours, theirs in pairs]
        else:
            lows = [above["difference_low"]]
        clear = all(low is not None and low > 0 for low in lows)
        row = {"ranking": name, **_trained(results), "behind": above["difference"], "as_good": not clear}
        rows.append(row)
    return sorted(rows, key=lambda row: -(row["retention"] or 0.0))


def runners_up(evidence: Evidence) -> list[str]:
    """Return the finalists that are not told apart from the best; fewer than 5 seeds tell none apart."""
    if not evidence.rungs:
        return [each.label for each in evidence.placed if each.apart is False]
    best, *others = evidence.rungs[-1].results.items()
    alike = []
    for label, results in others:
        row = over_seeds(best[1], results)
        if row["difference_seeds"] < FEWEST_SEEDS or not (row["difference_low"] or 0.0) > 0:
            alike.append(label)
    return alike


def narrowly_left(trained: Trained, staying: Trained) -> list[str]:
    """Return candidates that left a rung but are not told apart, on its test images, from the last that stayed."""
    stayed = [label for label in trained.results if label in {*staying.results, *staying.failed}]
    left = [label for label in trained.results if label not in stayed]
    last = trained.results[stayed[-1]]
    rows = {label: over_seeds(last, trained.results[label]) for label in left}
    return [label for label, row in rows.items() if not (row["difference_low"] or 0.0) > 0]


def seconds_of(results: Sequence[Any]) -> float:
    """Return the seconds that results took when they were measured."""
    return float(sum(result.environment.get("seconds") or 0.0 for result in results))


def _trained(results: Sequence[Any]) -> Row:
    """Return the numbers of trainings or of a ranking; fewer than 5 trainings have no interval."""
    row = over_seeds(results)
    numbers = {name: row[name] for name in ("steps", "images", "seeds", "retention", "low", "high", "by_seed")}
    if row["steps"] and len(results) < FEWEST_SEEDS:
        numbers |= {"low": None, "high": None}
    return {**numbers, "spent": seconds_of(results)}


def _measured(placed: Measured | None) -> Row:
    row: Row = {f"{name}{end}": None for name in ("value", "behind") for end in ENDS} | {"apart": None}
    if placed is None:
        return row
    estimates = {"value": placed.value, "behind": placed.behind}
    row |= {
        f"{name}{end}": finite(getattr(each, field))
        for name, each in estimates.items()
        if each is not None
        for end, field in ENDS.items()
    }
    return row | {"apart": placed.apart}

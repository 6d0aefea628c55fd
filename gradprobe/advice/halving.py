"""Successive halving: short trainings of all that enter, longer ones of the better half, and so on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.advice.candidates import Candidate
from gradprobe.advice.schedule import Rung
from gradprobe.errors import GradprobeError
from gradprobe.probes.retention.result import over_seeds

Train = Callable[[Rung, Sequence[Candidate]], list[list[Any]]]


@dataclass(frozen=True)
class Trained:
    """A rung with its outcome.

    Attributes:
        rung: as it was planned.
        results: of each candidate that was trained, one a seed, the best first.
        failed: reason of each that could not be trained.
    """

    rung: Rung
    results: Mapping[str, list[Any]]
    failed: Mapping[str, str]

    def retention(self, label: str) -> float:
        """Return the mean retention of a candidate over its seeds."""
        return float(over_seeds(self.results[label])["retention"])


def halved(entering: Sequence[Candidate], rungs: Sequence[Rung], train: Train) -> list[Trained]:
    """Train rung by rung, going on with the best; equals keep their order.

    Args:
        entering: candidates, those first that are preferred where retentions are equal.
        rungs: as `gradprobe.advice.schedule.schedule` plans them.
        train: ``(rung, candidates) -> results``, for each candidate a result or an error a seed.

    Raises:
        GradprobeError: none of the candidates can be trained.
    """
    staying, outcome = list(entering), []
    for rung in rungs:
        staying = staying[: rung.operators]
        by_label = dict(zip([c.label for c in staying], train(rung, staying), strict=True))
        failed = {
            label: str(next(r for r in results if isinstance(r, GradprobeError)))
            for label, results in by_label.items()
            if any(isinstance(r, GradprobeError) for r in results)
        }
        kept = {label: over_seeds(results)["retention"] for label, results in by_label.items() if label not in failed}
        if not kept:
            reason = next(iter(failed.values()), "there are no candidates")
            raise GradprobeError(f"no candidate could be trained for {rung.steps} steps; the first: {reason}")
        order = sorted(kept, key=lambda label: -(kept[label] or 0.0))
        staying = [c for label in order for c in staying if c.label == label]
        outcome.append(Trained(rung, {label: by_label[label] for label in order}, failed))
    return outcome

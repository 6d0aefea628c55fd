"""Scores of one model on one benchmark, and what is retained of those of another (no torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.errors import UsageError
from gradprobe.probes.result import ProbeResult
from gradprobe.statistics.estimates import Estimate, finite
from gradprobe.statistics.ratios import mean_of
from gradprobe.statistics.summed import retained, score
from gradprobe.store.results import check_shapes
from gradprobe.vlm.evaluation.benchmarks import Benchmark, benchmark_of


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult(ProbeResult):
    """Answers of one model to one benchmark, and their grades.

    Attributes:
        question: All that decides the answers, JSON only; its hash is the key. Its ``op`` is what selects, or
            ``unpruned``.
        answers: Text of each answer, in the order of the prepared benchmark.
        units: Number of each unit of questions that are scored together, ``(U,)``, ascending.
        parts: Numbers of each unit, of whose sums the score is made, ``(U, V)``.
        score: Score as lmms-eval aggregates it: the sum of its metrics, in percent or MME's points.
        environment: Versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: The arrays do not have these shapes.
    """

    question: dict[str, Any]
    answers: tuple[str, ...]
    units: np.ndarray
    parts: np.ndarray
    score: float
    environment: dict[str, Any]
    probe: ClassVar[str] = "evaluation"

    def __post_init__(self) -> None:
        check_shapes(self, {"parts": (len(self.units), self.parts.shape[-1] if self.parts.ndim == 2 else 0)})

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark."""
        return benchmark_of(str(self.question["task"]))

    @property
    def estimate(self) -> Estimate:
        """Score with its interval over units, as shown: percent, or MME's points."""
        scale, each = self.benchmark.scale, score(self.parts, self.benchmark.formula)
        return Estimate(*(scale * value for value in (each.value, each.low, each.high)))

    def retention(self, baseline: "EvaluationResult") -> Estimate:
        """Return the score over that of the unpruned model on the same questions, with its interval.

        Raises:
            UsageError: The questions are others.
        """
        if self.question["task"] != baseline.question["task"] or not np.array_equal(self.units, baseline.units):
            raise UsageError("a retention is over the same questions of one benchmark; evaluate both on them")
        return retained(self.parts, baseline.parts, self.benchmark.formula)

    def row(self, baseline: "EvaluationResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return a row of the table, ready for JSON.

        Args:
            baseline: The same benchmark, answered by the unpruned model.
            path: Where the result is stored.
        """
        own, kept = self.estimate, None if baseline is None else self.retention(baseline)
        numbers = {"score": own.value, "low": own.low, "high": own.high}
        if baseline is not None and kept is not None:
            numbers |= {"unpruned": baseline.estimate.value, "retention": kept.value}
            numbers |= {"retention_low": kept.low, "retention_high": kept.high}
        budget = {name: value for name, value in self.question.items() if name in ("k", "ratio", "average")}
        return {
            "benchmark": self.question["task"],
            "op": self.question["op"],
            **budget,
            **{name: finite(value) for name, value in numbers.items()},
            "questions": len(self.answers),
            "units": len(self.units),
            "seconds": self.environment.get("seconds"),
            "path": None if path is None else str(path),
        }


def average_retention(pairs: Sequence[tuple[EvaluationResult, EvaluationResult]]) -> Estimate:
    """Return the mean retention over benchmarks, each counted once, with an interval over their questions.

    The questions of different benchmarks are taken for independent.

    Args:
        pairs: Results of the pruned and of the unpruned model, a pair for each benchmark.
    """
    return mean_of([ours.retention(theirs) for ours, theirs in pairs])

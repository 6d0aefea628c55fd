"""Result of the equivalence probe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradprobe.errors import GradprobeError
from gradprobe.probes.result import ProbeResult
from gradprobe.store.results import check_shapes

MARGIN = 0.01  # of accuracy: a hundredth of the images


@dataclass(frozen=True, eq=False, repr=False)
class EquivalenceResult(ProbeResult):
    """Rank of the right class of each of I images when an operator keeps K tokens by random scores.

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key.
        ranks: how many classes the frozen model puts above the right one, ``(I,)``: 0 is top-1, below 5 is top-5.
        losses: of each image, ``(I,)``.
        ids: which images these are, ``(I,)``.
        tokens: N, of which K are kept.
        tau: the operator's temperature; None if it has none.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    ranks: np.ndarray
    losses: np.ndarray
    ids: np.ndarray
    tokens: int
    tau: float | None
    environment: dict[str, Any]
    probe: ClassVar[str] = "equivalence"

    def __post_init__(self) -> None:
        images = (len(self.ids),)
        check_shapes(self, {"ranks": images, "losses": images, "ids": images})

    def row(
        self, baseline: "EquivalenceResult | None" = None, path: Path | None = None, margin: float = MARGIN
    ) -> dict[str, Any]:
        """Return the result as a row of the equivalence table; with a baseline on the same images, also the gap to it.

        Args:
            baseline: another operator on the same images at the same K.
            path: where the result is stored.
            margin: a gap of accuracy below this one counts as none.

        Returns:
            Plain numbers, strings and None (undefined), ready for JSON.

        Raises:
            GradprobeError: the baseline is of other images or another K.
        """
        from gradprobe.statistics.proportions import (
            accuracy_row,  # scipy takes half a second: listing results does without
        )

        if baseline is not None:
            self._check_pair(baseline)
        asked = self.question
        row: dict[str, Any] = {"op": asked["op"], "tau": self.tau, "k": asked["k"], "tokens": self.tokens}
        row["keep"] = asked["k"] / self.tokens
        for name, below in (("top1", 1), ("top5", 5)):
            other = None if baseline is None else baseline.ranks < below
            row |= {f"{name}{field}": x for field, x in accuracy_row(self.ranks < below, other, margin).items()}
        return row | {"margin": margin, "images": len(self.ids), "path": None if path is None else str(path)}

    def _check_pair(self, other: "EquivalenceResult") -> None:
        told = f"{self.question['op']} and {other.question['op']} were not"
        if self.question["k"] != other.question["k"]:
            raise GradprobeError(f"{told} asked at the same K: {self.question['k']} and {other.question['k']}")
        if not np.array_equal(self.ids, other.ids):
            raise GradprobeError(f"{told} asked of the same images; give both the same --images, --data and --seed")


def pooled(results: Sequence[EquivalenceResult]) -> EquivalenceResult:
    """Results of one operator and K on different images as one, such as of three folders.

    Args:
        results: at least one; their questions differ in ``data`` and ``images`` alone.

    Returns:
        All images in the order given; its question names every data set and counts all images.

    Raises:
        GradprobeError: other questions, or an image that is in two of them.
    """
    first = results[0]
    fixed = [{n: v for n, v in r.question.items() if n not in ("data", "images")} for r in results]
    if any(question != fixed[0] for question in fixed):
        raise GradprobeError(f"results of different questions cannot be pooled: {first.question['op']} and others")
    ids = np.concatenate([r.ids for r in results])
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        shared = ", ".join(str(i) for i in unique[counts > 1][:5])
        raise GradprobeError(f"results on the same images cannot be pooled: {len(ids) - len(unique)} shared ({shared})")
    if len(results) == 1:
        return first
    data = " + ".join(str(r.question.get("data")) for r in results)
    return replace(
        first,
        question=first.question | {"data": data, "images": len(ids)},
        ids=ids,
        ranks=np.concatenate([r.ranks for r in results]),
        losses=np.concatenate([r.losses for r in results]),
    )

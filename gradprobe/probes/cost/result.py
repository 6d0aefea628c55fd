"""Result of the cost probe."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.store.results import check_shapes

if TYPE_CHECKING:
    from gradprobe.statistics.estimates import Estimate


@dataclass(frozen=True, eq=False, repr=False)
class CostResult(ProbeResult):
    """FLOPs, seconds and bytes of a training gradient and of a deployed forward pass through one operator.

    FLOPs and bytes are the same in every run. Seconds are not: another run of the same question measures others.

    Attributes:
        question: all that decides FLOPs and bytes, JSON only; its hash is the key.
        gradient: ``"yes"``, or ``"none"`` for an operator that lets no gradient through.
        sent: M, the tokens that the operator sends on in training.
        flops: of one image: ``batch`` (embedding, and the target if the loss is ``kl``), ``unpruned`` (the encoder on
            all N tokens), ``scorer``, ``training`` (the encoder on the M tokens, of both samples if there are two),
            ``gradient`` (the whole training gradient, forward and backward; None without one), ``deployed`` (the
            encoder on K tokens).
        memory: bytes of one image that autograd keeps for the backward, ``training`` of the training gradient and
            ``operator`` of the operator alone (None without gradient); ``peak`` allocated on a GPU meanwhile (None on a
            CPU).
        unpruned: seconds of the encoder's forward pass on all N tokens, all images, in each round, ``(rounds,)``.
        backward: of the same and back to its tokens, ``(rounds,)``.
        scorer: of the scorer's forward pass, ``(rounds,)``.
        operator: of the operator's forward pass alone, ``(rounds,)``.
        operator_backward: of the same and back to the scores, ``(rounds,)``; empty without gradient.
        training: of the whole training gradient in the scores, ``(rounds,)``; empty without gradient.
        deployed: of hard top-K and the encoder's forward pass on its K tokens, ``(rounds,)``.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    gradient: str
    sent: int
    flops: dict[str, float | None]
    memory: dict[str, float | None]
    unpruned: np.ndarray
    backward: np.ndarray
    scorer: np.ndarray
    operator: np.ndarray
    operator_backward: np.ndarray
    training: np.ndarray
    deployed: np.ndarray
    environment: dict[str, Any]
    probe: ClassVar[str] = "cost"

    def __post_init__(self) -> None:
        each = (len(self.unpruned),)
        back = each if self.gradient == "yes" else (0,)
        check_shapes(self, {
            "unpruned": each, "backward": each, "scorer": each, "operator": each, "operator_backward": back,
            "training": back, "deployed": each,
        })  # fmt: skip

    def row(self, baseline: "CostResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return the result as a row of the cost table; with a baseline, also the ratio of the two training times.

        Times are medians over rounds. A time over another is the median of their ratio *within* a round, so that what
        slows the machine for a while slows both. The ratio to the baseline, which was measured in a run of its own, is
        that of the two ``training / unpruned``.

        Args:
            baseline: the same question asked of another operator.
            path: where the result is stored.

        Returns:
            Plain numbers, strings and None (undefined), ready for JSON; times in milliseconds an image, memory in bytes
            an image.
        """
        from gradprobe.statistics.estimates import finite

        training = median(self.training / self.unpruned) if self.gradient == "yes" else None
        other = None if baseline is None or baseline.gradient == "none" else baseline
        versus = None if training is None or other is None else over(training, median(other.training / other.unpruned))
        alone = self.operator if training is None else self.operator_backward
        share = None if training is None else float(np.median(self.operator_backward / self.training))
        numbers: dict[str, Any] = {
            "training_ms": self._ms(self.training),
            "operator_ms": self._ms(alone),
            "operator_share": share,
            "unpruned_ms": self._ms(self.unpruned),
            "scorer_ms": self._ms(self.scorer),
            "deployed_ms": self._ms(self.deployed),
        }
        compared = {
            "training": training,
            "encoder": median(self.backward / self.unpruned),
            "deployed": median(self.deployed / self.unpruned),
            "ratio": versus,
        }
        for name, estimate in compared.items():
            for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high")):
                numbers[f"{name}{suffix}"] = None if estimate is None else getattr(estimate, field)
        return {
            "op": self.question["op"],
            "k": self.question["k"],
            "gradient": self.gradient,
            **{name: finite(value) for name, value in numbers.items()},
            "sent": self.sent,
            **{f"flops_{name}": value for name, value in self.flops.items()},
            "memory": self.memory["training"],
            "operator_memory": self.memory["operator"],
            "peak_memory": self.memory["peak"],
            "images": self.question["images"],
            "rounds": len(self.unpruned),
            "path": None if path is None else str(path),
        }

    def _ms(self, seconds: np.ndarray) -> float | None:
        return 1000 * float(np.median(seconds)) / self.question["images"] if len(seconds) else None


def median(values: np.ndarray, level: float = 0.95) -> "Estimate":
    """Return the median and its interval between two order statistics, for any distribution: NaN below 6 values.

    ``[x_(l), x_(n+1-l)]`` with the largest l for which ``1 - 2 P(Bin(n, 1/2) < l) >= level``; with n = 9 that is the
    second smallest to the second largest, at 96.1 %. It takes the values as independent.

    Args:
        values: one a round, ``(rounds,)``.
        level: at least so often the interval holds the true median.

    Source: Conover, "Practical Nonparametric Statistics", section 3.2.

    Example:
        >>> median(np.arange(9.0))
        Estimate(value=4.0, low=1.0, high=7.0)
    """
    from scipy.stats import binom

    from gradprobe.statistics.estimates import Estimate

    ordered = np.sort(values)
    n = len(ordered)
    cut = int(np.sum(2 * binom.cdf(np.arange(n // 2), n, 0.5) <= 1 - level))
    low, high = (ordered[cut - 1], ordered[n - cut]) if cut else (np.nan, np.nan)
    return Estimate(float(np.median(ordered)), float(low), float(high))


def over(ours: "Estimate", theirs: "Estimate") -> "Estimate":
    """Return the ratio of two positive estimates from runs of their own, its interval from theirs in logarithms.

    With ``a in [a1, a2]`` and ``b in [b1, b2]`` in logarithms, the difference lies between
    ``a - b - sqrt((a - a1)^2 + (b2 - b)^2)`` and ``a - b + sqrt((a2 - a)^2 + (b - b1)^2)``.

    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures" (MOVER).

    Example:
        >>> from gradprobe.statistics.estimates import Estimate
        >>> over(Estimate(3.0, 3.0, 3.0), Estimate(2.0, 1.5, 2.5))
        Estimate(value=1.5, low=1.2, high=2.0)
    """
    from gradprobe.statistics.estimates import Estimate

    a, a1, a2 = np.log([ours.value, ours.low, ours.high])
    b, b1, b2 = np.log([theirs.value, theirs.low, theirs.high])
    ends = (a - b, a - b - np.hypot(a - a1, b2 - b), a - b + np.hypot(a2 - a, b - b1))
    return Estimate(*(float(np.exp(x).round(12)) for x in ends))

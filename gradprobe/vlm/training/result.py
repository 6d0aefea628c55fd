"""Result of a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gradprobe.plotting.shown import Shown
from gradprobe.statistics.estimates import Estimate


@dataclass(frozen=True)
class Validation:
    """Losses on the held-out captions after a step.

    Attributes:
        step: Steps done.
        loss: Loss through the operator at its last temperature, denoiser included; early stopping goes by it.
        deployed: Loss of hard top-K, without throttle and denoiser, as deployed.
    """

    step: int
    loss: float
    deployed: float


@dataclass(frozen=True, repr=False)
class TrainingResult(Shown):
    """Result of a training run.

    Attributes:
        out: Folder of the pruner.
        config: Config of the training, in JSON types.
        steps: Steps done.
        planned: Steps without early stopping.
        step: Step after which the saved scorer stood.
        validations: Validations in order.
        losses: Caption losses on the held-out examples: ``unpruned``, ``deployed`` (hard top-K), ``random`` (K tokens
            at random), ``training`` (through the operator); empty without validation.
        training_loss: Loss of the last step.
        parameters: Number of trained parameters of scorer and denoiser.
        seconds: Time of all runs together.
        skipped: Inputs that were skipped: the first few, and the number of the others.
        examples: Number of examples held out, and of those seen in training.
        over_random: Loss ``random`` minus ``deployed``, with its interval over held-out captions; None without
            validation.
    """

    out: Path
    config: dict[str, Any]
    steps: int
    planned: int
    step: int
    validations: tuple[Validation, ...]
    losses: dict[str, float]
    training_loss: float
    parameters: dict[str, int]
    seconds: float
    skipped: tuple[str, ...]
    examples: dict[str, int]
    over_random: Estimate | None = None
    _shown_by: ClassVar[str] = "gradprobe.vlm.training.shown"


def best(validations: Sequence[Validation]) -> Validation:
    """Return the first validation of the lowest loss; NaN is worse than any number."""
    return min(validations, key=lambda v: (math.isnan(v.loss), v.loss))

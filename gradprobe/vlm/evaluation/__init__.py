"""Evaluation: scores of a model on published benchmarks, through lmms-eval, and what a pruner retains of them.

Its answers lie in the same stores as those of the probes; its command is its own, since its subject is a model with a
benchmark, and no operator of a task. Importing this package imports neither torch nor lmms-eval.
"""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.settings import OPTIONAL, setting

UNPRUNED = "unpruned"  # in the place of what selects


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of an evaluation."""

    samples: int | None = setting(
        None, "Questions of each benchmark, the first ones; all without it.", least=1, codec=OPTIONAL
    )
    batch_size: int = setting(1, "Questions that are answered together.")


PROBE = Probe(
    name="evaluation",
    about="Score a model on published benchmarks through lmms-eval, pruned and unpruned.",
    settings=EvaluationSettings,
    measure="gradprobe.vlm.evaluation.run:measure",
    result="gradprobe.vlm.evaluation.result:EvaluationResult",
    view="gradprobe.vlm.evaluation.view",
    figure="gradprobe.vlm.evaluation.figure:score_figure",
    baseline="",
    command=False,
    cites=("diffprune",),
)

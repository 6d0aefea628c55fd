"""Cost: FLOPs, seconds and memory of a training gradient through an operator, and of the deployed model."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.settings import setting


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """Settings of the cost probe."""

    images: int = setting(8, "Images in the one group that is measured.")
    rounds: int = setting(9, "Rounds in which everything is timed, at least 6.")
    seed: int = setting(0, "Seed of images and noise.")


PROBE = Probe(
    name="cost",
    about="FLOPs, seconds and memory of a training gradient and of the deployed model, against a baseline.\n\n"
    "Seconds are of the run that measured them: --force measures again.",
    settings=CostSettings,
    measure="gradprobe.probes.cost.measure:measure",
    result="gradprobe.probes.cost.result:CostResult",
    view="gradprobe.probes.cost.view",
    check="gradprobe.probes.cost.measure:check",
    compared="gradprobe.probes.cost.compared",
    figure="gradprobe.probes.cost.figure:cost_figure",
    keys=("device",),
    alone=True,
)

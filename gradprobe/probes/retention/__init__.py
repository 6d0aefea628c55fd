"""Retention: accuracy that a scorer trained through an operator retains once hard top-K is deployed."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.settings import OPTIONAL, setting

IMAGES = 1000  # test images, unless another number is given


def trained(settings: "RetentionSettings") -> bool:
    """Tell whether the settings train a scorer; a ranking is asked with 0 steps."""
    return settings.steps > 0


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """Settings of the retention probe: the recipe of the training and the number of test images."""

    steps: int = setting(100, "Training steps.")
    batch_size: int = setting(32, "Images in a training step.", asked_if=trained)
    learning_rate: float = setting(1e-3, "Rate of the first step; falls to 0 by a cosine.", asked_if=trained)
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", asked_if=trained)
    tau_start: float | None = setting(2.0, "Temperature of the first step.", asked_if=trained, codec=OPTIONAL)
    tau_end: float | None = setting(0.1, "Temperature of the last step.", asked_if=trained, codec=OPTIONAL)
    tau_steps: int | None = setting(
        None, "Steps until tau has fallen and is held. Default: all.", asked_if=trained, codec=OPTIONAL
    )
    images: int = setting(IMAGES, "Test images.")
    seed: int = setting(0, "Seeds, each with its own scorer, images and noise.", option="seeds")


PROBE = Probe(
    name="retention",
    about="Train a scorer through each operator, deploy hard top-K, and compare accuracies with the unpruned model's.",
    settings=RetentionSettings,
    measure="gradprobe.probes.retention.measure:measure",
    result="gradprobe.probes.retention.result:RetentionResult",
    view="gradprobe.probes.retention.view",
    check="gradprobe.probes.retention.measure:check",
    compared="gradprobe.probes.retention.compared",
    figure="gradprobe.probes.retention.figure:figure",
    varied=("k",),
    workers=True,
    side_by_side="gradprobe.probes.retention.side_by_side",
)

"""Retention: accuracy that a scorer trained through an operator retains once hard top-K is deployed."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.probes.recipe import RecipeSettings
from gradprobe.settings import setting

IMAGES = 1000  # test images, unless another number is given


@dataclass(frozen=True, kw_only=True)
class RetentionSettings(RecipeSettings):
    """Settings of the retention probe: the recipe of the training and the number of test images."""

    images: int = setting(IMAGES, "Test images.")
    seed: int = setting(0, "Seeds, each with its own scorer, images and noise.", option="seeds")
    positions: str = setting(
        "keep", "Position ids of the tokens that selectors keep: their own, or renumbered (compact).",
        choices=("keep", "compact"), asked_if=lambda settings: settings.positions != "keep",
    )  # fmt: skip


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

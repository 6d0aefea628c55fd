"""Landscape: the mean loss on a plane or line through the scorer's parameters, and its roughness."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe.landscapes import ONE_D
from gradprobe.probes.contract import Probe
from gradprobe.probes.landscape.notation import Point, parse_checkpoints, write_checkpoints, write_grid
from gradprobe.settings import LEARNING_RATE, Codec, setting

NOISE = ("common", "fresh")
AXES = ("random", "pca", "checkpoints")
REACH = 0.3  # filter units, which the axes of the paper's Fig. 2 seem to show


def _random(settings: "LandscapeSettings") -> bool:
    return settings.axes == "random"


def _trained(settings: "LandscapeSettings") -> bool:
    return settings.steps > 0 or any(isinstance(point, int) for point in settings.checkpoints)


@dataclass(frozen=True, kw_only=True)
class LandscapeSettings:
    """Settings of the landscape probe."""

    grid: str = setting(
        "31x31",
        "Rows along d1 x columns along d2, ``61x31``; ``81`` is a line of 81 points along d2.",
        codec=Codec(write_grid, str),
    )
    reach: float | None = setting(
        None,
        "Half the width in filter units; 0.3 by default. Random axes only.",
        asked_if=_random,
        codec=Codec(lambda value: REACH if value is None else float(value), float),
    )
    noise: str = setting("common", "common: the same in all cells; fresh: its own in each.", choices=NOISE)
    axes: str = setting(
        "random",
        "random (filter-normalised), pca (of the training trajectory of ``steps``) or checkpoints.",
        choices=AXES,
    )
    one_d: str = setting(
        "zero",
        "Biases and norm layers: zero (stay), vector or element. Random axes only.",
        choices=ONE_D,
        asked_if=_random,
    )
    params: str = setting(
        "*", "Parameters of the scorer that move: a pattern, e.g. 'hidden.*'. Random axes only.", asked_if=_random
    )
    images: int = setting(32, "Number of images.")
    checkpoints: Sequence[Point] = setting(
        (),
        "A, B and for a plane C: files of the scorer's parameters, or numbers of training steps.",
        asked_if=lambda s: s.axes == "checkpoints",
        codec=Codec(write_checkpoints, parse_checkpoints),
    )
    steps: int = setting(0, "Training steps of the scorer before the measurement.")
    learning_rate: float = setting(LEARNING_RATE, "Learning rate of that training.", asked_if=_trained)
    batch_size: int = setting(16, "Images in a batch of that training.", key="train_batch", asked_if=_trained)
    seed: int = setting(0, "Seed of images, noise, scorer, directions and training.", option="seeds")


PROBE = Probe(
    name="landscape",
    about="Measure the loss on a plane or line through the scorer's parameters, and its roughness, against a baseline.",
    settings=LandscapeSettings,
    measure="gradprobe.probes.landscape.measure:measure",
    result="gradprobe.probes.landscape.result:LandscapeResult",
    view="gradprobe.probes.landscape.view",
    check="gradprobe.probes.landscape.measure:check",
    compared="gradprobe.probes.landscape.compared",
    figure="gradprobe.probes.landscape.figure:landscape_figure",
    workers=True,
    cites=("li2018landscape", "diffprune"),
)

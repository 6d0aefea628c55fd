"""Coherence: the agreement of the scorer's gradients of different batches."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.settings import LEARNING_RATE, setting


@dataclass(frozen=True, kw_only=True)
class CoherenceSettings:
    """Settings of the coherence probe."""

    batches: int = setting(32, "Batches, at least 3.")
    batch_size: int = setting(16, "Images in a batch.")
    draws: int = setting(2, "Noise draws for each batch, at least 2.", least=2)
    steps: int = setting(0, "Training steps of the scorer before the measurement: 0,100,500.")
    learning_rate: float = setting(LEARNING_RATE, "Learning rate of that training.", asked_if=lambda s: s.steps > 0)
    seed: int = setting(0, "Seed of the order of images, the noise, the scorer and the training.", option="seeds")


PROBE = Probe(
    name="coherence",
    about="Measure how far scorer gradients of different batches agree, with intervals, against a baseline.",
    settings=CoherenceSettings,
    measure="gradprobe.probes.coherence.measure:measure",
    result="gradprobe.probes.coherence.result:CoherenceResult",
    view="gradprobe.probes.coherence.view",
    check="gradprobe.probes.coherence.measure:check",
    compared="gradprobe.probes.coherence.compared",
    figure="gradprobe.probes.coherence.figure:coherence_figure",
    varied=("steps",),
    cites=("diffprune",),
)

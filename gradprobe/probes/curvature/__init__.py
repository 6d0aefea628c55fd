"""Curvature: the largest eigenvalues and the trace of the Hessian of a scorer's mean loss, where there is one."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.settings import LEARNING_RATE, setting


@dataclass(frozen=True, kw_only=True)
class CurvatureSettings:
    """Settings of the curvature probe."""

    eigenvalues: int = setting(5, "Number of eigenvalues, those of largest magnitude.")
    images: int = setting(32, "Images in the loss; a multiple of the batch size if larger.")
    batch_size: int = setting(16, "Images differentiated at once, and in a batch of training.")
    samples: int = setting(16, "Random vectors for the trace, at least 2.")
    tolerance: float = setting(1e-3, "Largest residual of an eigenvalue, in (0, 1).")
    steps: int = setting(0, "Training steps of the scorer before the measurement.")
    learning_rate: float = setting(LEARNING_RATE, "Learning rate of that training.", asked_if=lambda s: s.steps > 0)
    seed: int = setting(0, "Seed of the order of images, noise, training and random vectors.")


PROBE = Probe(
    name="curvature",
    about="Eigenvalues and trace of the Hessian of the scorer's loss, or why an operator has none.",
    settings=CurvatureSettings,
    measure="gradprobe.probes.curvature.measure:measure",
    result="gradprobe.probes.curvature.result:CurvatureResult",
    view="gradprobe.probes.curvature.view",
    check="gradprobe.probes.curvature.measure:check",
    figure="gradprobe.probes.curvature.figure:curvature_figure",
    baseline="",
)

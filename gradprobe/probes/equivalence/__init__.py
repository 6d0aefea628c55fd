"""Equivalence: the restriction of tokens by an operator beside that of hard top-K, under untrained scores."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.settings import setting

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class EquivalenceSettings:
    """Settings of the equivalence probe."""

    images: int = setting(512, "Images.")
    seed: int = setting(0, "Seed of the order of images, the scores and the operator's noise.")
    scores: str = setting(
        RANDOM, "Scores: random, or a selector that needs no language model, e.g. divprune.",
        asked_if=lambda settings: settings.scores != RANDOM,
    )  # fmt: skip


PROBE = Probe(
    name="equivalence",
    about="Accuracy under random scores against hard top-K's, and whether the gap is smaller than a margin.",
    settings=EquivalenceSettings,
    measure="gradprobe.probes.equivalence.measure:measure",
    result="gradprobe.probes.equivalence.result:EquivalenceResult",
    view="gradprobe.probes.equivalence.view",
    check="gradprobe.probes.equivalence.measure:check",
    compared="gradprobe.probes.equivalence.compared",
    figure="gradprobe.probes.equivalence.figure:equivalence_figure",
    baseline="hard",
    varied=("k",),
    workers=True,
    cites=("diffprune",),
    keys=("scores_code",),
)

"""Fidelity: cosine of an operator's gradient with that of the smoothed deployed loss, and descent along it.

Two probes: the reference, which is the gradient of the smoothed deployed loss and names no operator, and the fidelity
of each operator, which is measured against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from gradprobe.errors import UsageError
from gradprobe.probes.contract import Probe
from gradprobe.settings import Codec, setting

SIGMAS = (0.1, 0.3, 1.0)
LADDER = (0.0001, 0.0003, 0.001, 0.003, 0.01)
BLOCK = 32  # draws of a piece of work; those of one part in it count their losses from each other's mean


def _text(numbers: Sequence[float]) -> str:
    """Return numbers as a question holds them: ascending, each once."""
    return ",".join(f"{x:.12g}" for x in sorted({float(x) for x in numbers}))


def _numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a question.

    Raises:
        UsageError: something else; presets are typed by hand.

    Example:
        >>> _numbers("0.1,0.3,1")
        (0.1, 0.3, 1.0)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except (AttributeError, ValueError):
        raise UsageError(f'{text!r} is no list of numbers; write them as one text: "0.1,0.3,1"') from None


NUMBERS = Codec(_text, _numbers)


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """Settings of the reference; with random scores there is nothing in parameters, so no steps are tried."""

    sigmas: Sequence[float] = setting(
        SIGMAS, "Smoothing in units of the scores, several: 0.1,0.3,1.", option="sigma", codec=NUMBERS
    )
    draws: int = setting(128, "Antithetic pairs for each image, a multiple of 32.", least=BLOCK)
    images: int = setting(64, "Images whose gradients are compared.", least=3)
    held_out: int = setting(256, "Other images, on which steps are tried.", asked_if=lambda s: s.scores == "scorer")
    ladder: Sequence[float] = setting(
        LADDER, "Steps relative to the norm of the parameters.", codec=NUMBERS, asked_if=lambda s: s.scores == "scorer"
    )
    scores: str = setting(
        "scorer", "scorer, or random: Gaussian ones, nothing in parameters.", choices=("scorer", "random")
    )
    seed: int = setting(0, "Seed of the order of images and of the noise.", option="seeds")


@dataclass(frozen=True, kw_only=True)
class NoiseDraws:
    """The setting that the fidelity of an operator has beside those of its reference."""

    noise_draws: int = setting(8, "Draws of the operator's own noise, at least 3.")


@dataclass(frozen=True, kw_only=True)
class FidelitySettings(NoiseDraws, ReferenceSettings):
    """Settings of the fidelity probe."""

    @property
    def reference(self) -> ReferenceSettings:
        """Settings of the reference, which all operators share."""
        return ReferenceSettings(**{f.name: getattr(self, f.name) for f in fields(ReferenceSettings)})


PROBE = Probe(
    name="fidelity",
    about="Compare gradients with that of the smoothed deployed loss, and step along them, against a baseline.",
    settings=FidelitySettings,
    measure="gradprobe.probes.fidelity.measure:measure",
    result="gradprobe.probes.fidelity.result:FidelityResult",
    view="gradprobe.probes.fidelity.view",
    check="gradprobe.probes.fidelity.reference:check",
    workers=True,
    compared="gradprobe.probes.fidelity.compared",
    figure="gradprobe.probes.fidelity.figure:fidelity_figure",
    cites=("salimans2017evolution",),
)
REFERENCE = Probe(
    name="reference",
    about="Gradient of the smoothed deployed loss, with which fidelity compares operators.",
    settings=ReferenceSettings,
    measure="gradprobe.probes.fidelity.reference:measure",
    result="gradprobe.probes.fidelity.reference_result:ReferenceResult",
    view="gradprobe.probes.fidelity.reference_view",
    check="gradprobe.probes.fidelity.reference:check",
    figure="gradprobe.probes.fidelity.reference_figure:precision_figure",
    baseline="",
    workers=True,
    command=False,
    cites=("salimans2017evolution",),
)

"""Schedule: tokens over layers that a search or a grid chooses within a budget, measured on images that chose nothing.

Its answers lie in the same stores as those of the probes, one for each kernel, budget and seed; it has no command of
its own beside ``gradprobe vlm search``. Importing this package imports no torch.
"""

from dataclasses import dataclass
from typing import Any

from gradprobe.probes.contract import Probe
from gradprobe.settings import setting

GRID = "grid"  # in the place of a kernel: the best of all schedules of a few counts
KERNELS = ("step", "steps:m=2", "steps:m=3", "free", GRID)


def searched(settings: Any) -> bool:
    """Tell whether a schedule is searched for by gradient."""
    return bool(settings.kernel != GRID)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Settings of a search, see `gradprobe.vlm.search.asked.Settings`, or of a grid, and the images that judge it."""

    kernel: str = setting("free", "Shapes of a schedule; grid: the best of a few counts.", choices=KERNELS)
    budget: float = setting(0.4, "Share of the FLOPs of all visual tokens, in (0, 1].")
    constraint: str = setting(
        "equal", "Form of the augmented Lagrangian.", choices=("equal", "at-most"), asked_if=searched
    )
    outer: int = setting(6, "Updates of the multiplier.", asked_if=searched)
    inner: int = setting(6, "Steps of Adam between two of them.", asked_if=searched)
    batch_size: int = setting(16, "Images of a step.", asked_if=searched)
    learning_rate: float = setting(0.2, "Of Adam.", asked_if=searched)
    softness: float = setting(0.1, "Temperature of the first step, as a share of a layer's tokens.", asked_if=searched)
    validation: int = setting(128, "Held-out images by whose loss the schedule is chosen.", least=1)
    images: int = setting(384, "Fresh images, none of which was searched with or chose.", least=3)
    seed: int = setting(0, "Of all images, and of a random selector.")


PROBE = Probe(
    name="schedule",
    about="Measure on fresh images the schedule of tokens over layers that a search or a grid chooses.",
    settings=ScheduleSettings,
    measure="gradprobe.vlm.schedule.measure:measure",
    result="gradprobe.vlm.schedule.result:ScheduleResult",
    view="gradprobe.vlm.schedule.view",
    check="gradprobe.vlm.schedule.measure:check",
    figure="gradprobe.vlm.schedule.figure:schedule_figure",
    baseline="",
    command=False,
)

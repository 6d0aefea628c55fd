"""Declaration of a step, and what all steps are told of the machine."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS, TRAIN, TEST, SAMPLE = (  # real files, as GRADPROBE_ASSETS has them
    "deit_tiny_patch16_224/model.safetensors", "imagenette/train", "imagenette/val", "imagenet-sample",
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """Circumstances of a campaign.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: Flag for the least sizes, which show that a step runs and measure nothing.
        out: Folder of the JSON files.
        assets: Folder with all of `WEIGHTS`, `TRAIN`, `TEST` and `SAMPLE`; None: there is none.
    """

    device: str
    tiny: bool
    out: Path
    assets: Path | None = None


@dataclass(frozen=True)
class Step:
    """Step of the campaign.

    Attributes:
        letter: Name on the command line.
        name: Name in the file, with the letter.
        about: Name in the table.
        module: Module with ``settings(setup) -> dict`` and ``measure(setup, settings, report)``, or an object with
            both.
        bound: Seconds after which it stops between two measurements.
        least: Seconds without which it is not begun.
    """

    letter: str
    name: str
    about: str
    module: Any
    bound: float
    least: float

    @property
    def file(self) -> str:
        """Name of its JSON file."""
        return f"{self.letter}-{self.name}.json"

    def code(self) -> Any:
        """Import its module."""
        return importlib.import_module(self.module) if isinstance(self.module, str) else self.module


def typed(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a probe with tuples where JSON has lists.

    Example:
        >>> typed({"ladder": [0.01], "images": 3})
        {'ladder': (0.01,), 'images': 3}
    """
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}

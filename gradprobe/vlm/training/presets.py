"""Settings of a pruner's training, and presets of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradprobe.errors import UsageError, nearest
from gradprobe.operator_info import about_of
from gradprobe.operators.registry import build, part
from gradprobe.ranges import check_number, check_numbers
from gradprobe.training.train import Recipe


@dataclass(frozen=True)
class Settings:
    """Settings of a pruner's training, which with model and data decide its outcome; the defaults are the paper's.

    Source: DiffPrune, appendix A. Not in the paper and chosen here: tau after step 2000 (it stays at its end), the
    denoiser's width (that of the scorer), weight decay (AdamW's usual 0.01), and everything about validation.

    Attributes:
        k: Tokens kept of an image; None: ``ratio`` decides.
        ratio: Share of each image's own tokens that is kept, in (0, 1]; None: ``k`` decides.
        op: Operator that is trained through.
        scorer: Spec of the scorer.
        denoiser: Spec of the denoiser: ``token``, ``global``, ``none``.
        steps: Number of steps; None: one epoch.
        batch_size: Images a step.
        learning_rate: Learning rate of the first step; falls to 0 by a cosine.
        weight_decay: Weight decay of AdamW.
        tau_start: Temperature of the first step; None: the operator's own throughout.
        tau_end: Temperature at the end of its decay by a cosine.
        tau_steps: Steps of that decay; the temperature is held afterwards.
        validation: Number of held-out examples; 0: no validation and no early stopping.
        save_every: Steps between checkpoints, each with a validation.
        patience: Validations in a row without a better loss that end the training, once tau has fallen; 0: no limit.
        seed: Seed of scorer, batches and noise.
        generator: Generator of noise, ``host``, ``philox`` or ``auto``: philox on a GPU.
    """

    k: int | None = None
    ratio: float | None = None
    op: str = "vpnoise"
    scorer: str = "transformer:depth=2,width=1024,heads=16"
    denoiser: str = "token:width=1024"
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    tau_start: float | None = 2.0
    tau_end: float | None = 0.1
    tau_steps: int = 2000
    validation: int = 256
    save_every: int = 100
    patience: int = 5
    seed: int = 0
    generator: str = "auto"

    def check(self) -> None:
        """Refuse impossible settings.

        Raises:
            UsageError: A setting is impossible; the message names the option and what is possible.
        """
        if (self.k is None) == (self.ratio is None):
            raise UsageError("give either --k (tokens kept of an image, e.g. --k 64) or --ratio (their share: 0.111)")
        names = (
            "k", "ratio", "batch_size", "learning_rate", "weight_decay", "tau_steps", "validation", "save_every",
            "patience", "seed",
        )  # fmt: skip
        check_numbers({name: getattr(self, name) for name in names})
        if self.steps is not None:
            check_number("steps", self.steps, 1)
        for tau in (self.tau_start, self.tau_end):
            if tau is not None:
                check_number("tau", tau)
        part("scorer", self.scorer), part("denoiser", self.denoiser)
        if getattr(about_of(build(self.op)), "gradient", None) == "none":
            raise UsageError(
                f"--op {self.op} gives the scorer no gradient, so it cannot train one; give another, e.g. vpnoise"
            )

    def recipe(self, steps: int) -> Recipe:
        """Return the recipe of a training of so many steps."""
        return Recipe(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            tau_start=self.tau_start,
            tau_end=self.tau_end,
            tau_steps=self.tau_steps,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Preset:
    """Named settings with a description."""

    settings: Settings
    description: str


_DIFFPRUNE = Preset(Settings(), "DiffPrune as appendix A of its paper gives it")
PRESETS = {
    "diffprune": _DIFFPRUNE,
    "autoselect": _DIFFPRUNE,  # the method's earlier name
    "diffprune-84m": Preset(
        Settings(denoiser="token:width=2048,hidden=11264"),
        "DiffPrune with a wider denoiser: at D = 1024 it matches the paper's count of 84 million trained parameters, "
        "not its architecture, which is not known (the widths that the paper gives make 36 million)",
    ),
    "small": Preset(
        Settings(
            scorer="transformer:depth=2,width=128,heads=4",
            denoiser="token",
            steps=400,
            learning_rate=1e-3,
            tau_steps=200,
            save_every=50,
        ),
        "for the embedded models on a CPU: narrower, 400 steps, tau fallen after 200, a rate of 1e-3",
    ),
}


def preset(name: str, changes: Mapping[str, Any]) -> Settings:
    """Return the settings of a preset, with some changed.

    Args:
        name: ``diffprune``, ``autoselect`` (the same), ``diffprune-84m`` or ``small``.
        changes: Values of fields of `Settings`.

    Raises:
        UsageError: There is no such preset, or the settings are impossible.

    Example:
        >>> preset("small", {"k": 11}).steps, preset("diffprune", {"k": 64}).recipe(4000).tau(3000)
        (400, 0.1)
    """
    if name not in PRESETS:
        raise UsageError(f"--preset {name} is not known; {nearest(name, PRESETS)}")
    settings = replace(PRESETS[name].settings, **changes)
    settings.check()
    return settings

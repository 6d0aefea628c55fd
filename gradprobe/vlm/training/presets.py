"""How a pruner is trained: the settings, and the named ones."""

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
    """All that decides how a pruner is trained, beside the model and the data; the defaults are the paper's.

    Source: DiffPrune, appendix A. Open in the paper, chosen here: where tau stays after step 2000 (at its end), the
    denoiser's width (that of the scorer), weight decay (AdamW's usual 0.01), and all about validation.

    Attributes:
        k: tokens kept of an image; None: ``ratio`` says.
        ratio: tokens kept as a share of each image's own, in (0, 1]; None: ``k`` says.
        op: the operator that is trained through.
        scorer: spec of the scorer.
        denoiser: spec of the denoiser: ``token``, ``global``, ``none``.
        steps: how many; None: one epoch.
        batch_size: images in a step.
        learning_rate: of the first step; falls to 0 by a cosine.
        weight_decay: of AdamW.
        tau_start: temperature of the first step; None: the operator's own, all along.
        tau_end: what it falls to, by a cosine.
        tau_steps: in how many steps; it is held from then on.
        validation: held-out examples that the losses are measured on; 0: none, and no early stopping.
        save_every: steps between checkpoints, which are also when validation is.
        patience: how many validations in a row without a better loss end the training, once tau has fallen; 0: none do.
        seed: of scorer, batches and noise.
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

    def check(self) -> None:
        """Refuse what means nothing.

        Raises:
            UsageError: says which option, and what is possible.
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
        """The same for a training of so many steps."""
        return Recipe(
            steps=steps, batch_size=self.batch_size, learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            tau_start=self.tau_start, tau_end=self.tau_end, tau_steps=self.tau_steps, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """Settings with a name, and what is to be said of them."""

    settings: Settings
    about: str


PRESETS = {
    "diffprune": Preset(Settings(), "DiffPrune as appendix A of its paper gives it"),
    "autoselect": Preset(
        Settings(),
        "AutoSelect, the same method's earlier name: Scorer, soft top-K, variance-preserving noise gate, denoiser with "
        "diagonal attention, next-token loss alone. Its abstract states nothing that differs from DiffPrune, and no "
        "code of either is public: the settings are DiffPrune's",
    ),
    "diffprune-84m": Preset(
        Settings(denoiser="token:width=2048,hidden=11264"),
        "DiffPrune with a wider denoiser: at D = 1024 it matches the paper's count of 84 million trained parameters, "
        "not its architecture, which is not known (the widths that the paper gives make 36 million)",
    ),
    "small": Preset(
        Settings(
            scorer="transformer:depth=2,width=128,heads=4", denoiser="token", steps=400, learning_rate=1e-3,
            tau_steps=200, save_every=50,
        ),
        "for scenes-vlm on a CPU: narrower, 400 steps, tau fallen after 200, a rate of 1e-3",
    ),
}  # fmt: skip


def preset(name: str, changes: Mapping[str, Any]) -> Settings:
    """The settings of a name, with some changed.

    Args:
        name: ``diffprune``, ``autoselect`` (the same), ``diffprune-84m`` or ``small``.
        changes: fields of `Settings` and what they are instead.

    Raises:
        UsageError: no such preset, or settings that mean nothing.

    Example:
        >>> preset("small", {"k": 11}).steps, preset("diffprune", {"k": 64}).recipe(4000).tau(3000)
        (400, 0.1)
    """
    if name not in PRESETS:
        raise UsageError(f"--preset {name} is not known; {nearest(name, PRESETS)}")
    found = replace(PRESETS[name].settings, **changes)
    found.check()
    return found

"""Settings of probes that train a scorer, or choose tokens without training; importing this module imports no torch."""

from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.probes.contract import Ranking, Subject
from gradprobe.ranges import RANGES, check_number
from gradprobe.settings import OPTIONAL, setting


def trained(settings: Any) -> bool:
    """Tell whether the settings train a scorer; a plan is asked with 0 steps."""
    return settings.steps > 0


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """Recipe of the training."""

    steps: int = setting(100, "Training steps.")
    batch_size: int = setting(32, "Images in a training step.", asked_if=trained)
    learning_rate: float = setting(1e-3, "Rate of the first step; falls to 0 by a cosine.", asked_if=trained)
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", asked_if=trained)
    tau_start: float | None = setting(2.0, "Temperature of the first step.", asked_if=trained, codec=OPTIONAL)
    tau_end: float | None = setting(0.1, "Temperature of the last step.", asked_if=trained, codec=OPTIONAL)
    tau_steps: int | None = setting(
        None, "Steps until tau has fallen and is held. Default: all.", asked_if=trained, codec=OPTIONAL
    )


def check_recipe(subject: Subject, settings: RecipeSettings) -> dict[str, Any]:
    """Refuse a training that is not possible; a plan's question names no part of the task that is trained.

    Returns:
        Keys of the question that the subject decides.

    Raises:
        UsageError: numbers that do not go together, an unknown selector, a plan with steps, or an operator whose own
            tau the recipe would anneal away.
    """
    if isinstance(subject.operator, Ranking):
        from gradprobe.models.rankings import code_of_plan
        from gradprobe.selectors.plan import plan_of

        name = subject.operator.name
        if settings.steps:
            raise UsageError(f"--steps {settings.steps} is not possible: the selector {name} is not trained; give 0")
        return {**dict.fromkeys(("scorer", "denoiser", "train_data")), "op_code": code_of_plan(plan_of(name))}
    from gradprobe.operators.temperature import own_tau

    check_number("steps", settings.steps, 1)
    taus = first, last = settings.tau_start, settings.tau_end
    if taus != (None, None) and not all(RANGES["tau"].holds(tau) for tau in taus):
        raise UsageError(f"--tau {first}:{last} is not possible; give two positive numbers, 2.0:0.1, or own")
    if first is not None and own_tau(subject.operator):
        raise UsageError(
            f"operator {subject.name} has a tau of its own, which --tau {first:g}:{last:g} would anneal away; leave it "
            "out of the name, or keep it with --tau own"
        )
    return {}

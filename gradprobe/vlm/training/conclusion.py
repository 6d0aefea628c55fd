"""Warning of a temperature that cannot fall in time, and the verdict on a pruner beside random tokens."""

import math
from typing import Any

from gradprobe.operators.registry import build
from gradprobe.operators.temperature import temperature
from gradprobe.statistics.estimates import Estimate
from gradprobe.vlm.training.presets import Settings
from gradprobe.vlm.training.result import TrainingResult


def unfinished(settings: Settings, steps: int) -> str:
    """Return a warning if a training ends before its temperature has fallen; empty if it does not.

    Example:
        >>> from gradprobe.vlm.training.presets import preset
        >>> unfinished(preset("diffprune", {"k": 64}), 400)
        'tau falls from 2 to 0.1 in 2000 steps, and this training has 400: it ends at tau 1.82, before ...
        >>> unfinished(preset("small", {"k": 11}), 400), unfinished(preset("small", {"k": 11, "op": "gumbel"}), 4)
        ('', '')
    """
    if settings.tau_start is None or settings.tau_end is None or steps >= settings.tau_steps:
        return ""
    if temperature(build(settings.op)) is None:
        return ""  # its selection is as hard at any
    last = settings.recipe(steps).tau(steps - 1)
    start, end, falling = settings.tau_start, settings.tau_end, settings.tau_steps
    return (
        f"tau falls from {start:g} to {end:g} in {falling} steps, and this training has {steps}: it ends at tau "
        f"{last:.3g}, before the selection is as hard as when deployed. Give --steps {falling} or more, or a faster "
        f"fall: --tau-steps {max(1, steps // 2)}"
    )


def beats_random(result: TrainingResult) -> bool | None:
    """Return True if the interval of the gain over random tokens lies above 0; None without validation."""
    gain = result.over_random
    return None if gain is None else bool(gain.low > 0)  # NaN, of one example, is no evidence


def conclusion(result: TrainingResult) -> str:
    """Return the verdict on a pruner beside random tokens, with the numbers; empty without validation."""
    gain = result.over_random
    if gain is None:
        return ""
    kept, random = result.losses["deployed"], result.losses["random"]
    compared = (
        f"caption loss {kept:.4f} with the tokens that it keeps, {random:.4f} with as many at random: lower by "
        f"{_interval(gain)} on {result.examples['held_out']} held-out captions"
    )
    if beats_random(result):
        return f"better than random tokens: {compared}"
    word = "worse" if gain.high < 0 else "no better"
    return (
        f"this pruner is {word} than random tokens: {compared}. It is not worth using; train longer (--steps), with "
        "another --learning-rate or --op, or validate on more captions (--validation)"
    )


def _interval(gain: Estimate) -> str:
    ends = "no interval" if math.isnan(gain.low) else f"{gain.low:.4f}, {gain.high:.4f}"
    return f"{gain.value:.4f} [{ends}]"


def gain_facts(gain: Estimate | None) -> dict[str, Any]:
    """Return the gain over random tokens in JSON types, as in ``scorer.json``; empty without validation.

    Example:
        >>> gain_facts(Estimate(0.2, 0.1, 0.3)), gain_facts(None)
        ({'over_random': [0.2, 0.1, 0.3]}, {})
    """
    if gain is None:
        return {}
    return {"over_random": [None if math.isnan(x) else x for x in (gain.value, gain.low, gain.high)]}

"""What an operator says of itself: formula, gradient, budget, source."""

from dataclasses import dataclass
from typing import Any, Literal

Gradient = Literal["exact", "unbiased", "biased", "none"]


@dataclass(frozen=True)
class About:
    """What a relaxation, throttle or operator promises; `gradprobe.testing.check_operator` holds it to that.

    Attributes:
        formula: what it computes, in a line.
        gradient: ``exact``: the derivative of the very output, given the noise. ``unbiased``: over noise draws, the
            mean gradient of any linear function of the weights is the gradient of its mean; of any loss at all, if it
            is a score function (`log_prob`). ``biased``: neither. ``none``: no graph.
        source: where it is from.
        cite: names in `gradprobe.operators.citations.BIBTEX`, or whole BibTeX entries.
        stochastic: whether other noise gives another output.
        budget: of a relaxation: the largest ``|sum_i alpha_i - K| / N`` in float64; None: no budget is kept.

    Example:
        >>> from gradprobe import build
        >>> about_of(build("vpnoise")).gradient, about_of(build("gumbel")).gradient
        ('exact', 'biased')
    """

    formula: str
    gradient: Gradient
    source: str = ""
    cite: tuple[str, ...] = ()
    stochastic: bool = False
    budget: float | None = None


def about_of(thing: Any) -> About | None:
    """What a relaxation, throttle or operator says of itself; None if it says nothing."""
    told = getattr(thing, "about", None)
    return told if isinstance(told, About) else None


def joined(relaxation: Any, throttle: Any) -> About | None:
    """What an operator of these parts promises; None if one of them says nothing.

    A gradient through both is exact if both are; a score function's is unbiased through any throttle, any other that is
    unbiased for linear functions alone is not.
    """
    left, right = about_of(relaxation), about_of(throttle)
    if left is None or right is None:
        return None
    kinds = {left.gradient, right.gradient}
    gradient: Gradient = "exact" if kinds == {"exact"} else "biased"
    if "none" in kinds:
        gradient = "none"
    elif left.gradient == "unbiased" and hasattr(relaxation, "log_prob"):
        gradient = "unbiased"
    return About(
        formula=f"{right.formula}; {left.formula}",
        gradient=gradient,
        source="; ".join(dict.fromkeys(s for s in (left.source, right.source) if s)),
        cite=tuple(dict.fromkeys(left.cite + right.cite)),
        stochastic=left.stochastic or right.stochastic,
        budget=left.budget,
    )

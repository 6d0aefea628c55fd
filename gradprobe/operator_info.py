"""Declaration of an operator: formula, gradient, budget, source."""

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from gradprobe.errors import UsageError, in_words, nearest

Gradient = Literal["exact", "unbiased", "biased", "none"]


@dataclass(frozen=True)
class About:
    """Promise of a relaxation, throttle or operator, which `gradprobe.testing.check_operator` examines.

    Attributes:
        formula: Formula of the output, in a line.
        gradient: Kind of the gradient. ``exact``: the derivative of the output, given the noise. ``unbiased``: over
            noise draws, the mean gradient of any linear function of the weights is the gradient of its mean; of any
            loss at all, if it is a score function (`log_prob`). ``biased``: neither. ``none``: no graph.
        source: Paper or other origin.
        cite: Keys of `gradprobe.operators.citations.BIBTEX`, or whole BibTeX entries.
        stochastic: True if other noise gives another output.
        budget: Largest ``|sum_i alpha_i - K| / N`` of a relaxation, in float64; None if no budget is kept.

    Raises:
        UsageError: A field has another value than these.

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

    def __post_init__(self) -> None:
        if self.gradient not in get_args(Gradient):
            raise UsageError(f"About(gradient={in_words(self.gradient)}): {nearest(self.gradient, get_args(Gradient))}")
        if not isinstance(self.stochastic, bool):
            raise UsageError(f"About(stochastic={in_words(self.stochastic)}) is not possible; give True or False")
        number = isinstance(self.budget, Real) and not isinstance(self.budget, bool)
        if self.budget is not None and not (number and self.budget >= 0):
            raise UsageError(f"About(budget={in_words(self.budget)}) is not possible; give the tolerance, such as 1e-9")
        if not isinstance(self.cite, tuple) or not all(isinstance(key, str) for key in self.cite):
            raise UsageError(f"About(cite={in_words(self.cite)}) is not possible; give a tuple, such as ('diffprune',)")


def about_of(thing: Any) -> About | None:
    """Return the declaration of a relaxation, throttle or operator, None if there is none."""
    about = getattr(thing, "about", None)
    return about if isinstance(about, About) else None


def joined(relaxation: Any, throttle: Any) -> About | None:
    """Return the promise of an operator with these parts, None if one of them declares nothing.

    The gradient is exact if those of both parts are. That of a score function is unbiased through any throttle; one
    that is unbiased for linear functions alone is biased through a throttle.
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

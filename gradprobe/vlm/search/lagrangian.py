"""Multiplier of the budget, by the augmented Lagrangian method."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from gradprobe.errors import UsageError, nearest

Form = Literal["equal", "at-most"]
FORMS: tuple[Form, ...] = get_args(Form)
GROWTH = 3.0  # of rho
ENOUGH = 0.5  # of a violation: one that has not fallen to this share of the one before makes rho grow


@dataclass(frozen=True)
class Multiplier:
    """Price of the budget, for a constraint c = spent - budget.

    ``equal`` adds ``lambda c + rho/2 c^2`` to the loss and then sets ``lambda += rho c``: it pulls a schedule that
    spends less up to the budget. ``at-most`` adds ``(max(0, lambda + rho c)^2 - lambda^2) / (2 rho)`` and sets
    ``lambda = max(0, lambda + rho c)``: what is not spent costs nothing, so where the loss is flat the budget stays
    unused.

    Attributes:
        form: ``equal`` or ``at-most``.
        value: lambda.
        rho: Weight of the square.
        before: Violation at the update before; None at the first.

    Source: Nocedal and Wright, Numerical Optimization, chapter 17; VisPCO takes the first form.

    Example:
        >>> multiplier = Multiplier("equal", rho=2.0)
        >>> for _ in range(20):  # the least (x - 3)^2 with x = 1: the multiplier is 4
        ...     x = (6 - multiplier.value + multiplier.rho) / (2 + multiplier.rho)
        ...     multiplier = multiplier.updated(x - 1)
        >>> round(x, 4), round(multiplier.value, 4)
        (1.0, 4.0)
    """

    form: Form = "equal"
    value: float = 0.0
    rho: float = 10.0
    before: float | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"--constraint {self.form} is not possible; {nearest(str(self.form), FORMS)}")

    def term(self, c: Tensor) -> Tensor:
        """Return what is added to the loss."""
        if self.form == "equal":
            return self.value * c + self.rho / 2 * c**2
        return (torch.relu(self.value + self.rho * c) ** 2 - self.value**2) / (2 * self.rho)

    def updated(self, c: float, slack: float = 0.0) -> "Multiplier":
        """Return the multiplier after an outer iterate that ends at c.

        Args:
            c: The constraint.
            slack: Violation that counts as none. Above it rho grows where the violation has not fallen enough.
        """
        value, violation = self.value + self.rho * c, abs(c)
        if self.form == "at-most":  # a budget that is not spent violates nothing once its price is 0
            value, violation = max(0.0, value), abs(max(c, -self.value / self.rho))
        grows = self.before is not None and violation > max(slack, ENOUGH * self.before)
        return replace(self, value=value, rho=self.rho * (GROWTH if grows else 1), before=violation)

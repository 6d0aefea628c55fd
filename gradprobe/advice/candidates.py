"""Candidates of an advice: every registered operator and one's own, each with the temperatures it may be trained at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.core import AnyOperator
from gradprobe.errors import UsageError
from gradprobe.operators import registry
from gradprobe.operators.temperature import at_temperature, own_tau, temperature
from gradprobe.probes.retention import RetentionSettings

OWN = (None, None)  # the temperature that the operator says, all along
USUAL = (RetentionSettings.tau_start, RetentionSettings.tau_end)
SHARP = (0.5, 0.1)
Schedule = tuple[float | None, float | None]


@dataclass(frozen=True)
class Candidate:
    """An operator with a temperature schedule.

    Attributes:
        operator: that selects.
        tau: temperatures of the first and the last training step; `OWN`: its own, all along.
        several: whether the operator is a candidate with other schedules too, so that its label names this one.
    """

    operator: Any
    tau: Schedule
    several: bool

    @property
    def op(self) -> str:
        """Canonical name of the operator."""
        return registry.label(self.operator)

    @property
    def label(self) -> str:
        """Name of the candidate.

        Example:
            >>> Candidate(registry.build("vpnoise"), (0.5, 0.1), several=True).label
            'lapsum+vpnoise, tau 0.5:0.1'
        """
        return f"{self.op}, tau {words(self.tau)}" if self.several else self.op

    @property
    def beginning(self) -> Any:
        """Operator at the temperature at which training begins."""
        first, _ = self.tau
        return self.operator if first is None else at_temperature(self.operator, first)


def candidates(ops: Sequence[AnyOperator] = ()) -> list[Candidate]:
    """Return one's own operators and all registered ones, with their schedules.

    An operator whose weights have a temperature is a candidate twice: with the schedule of the paper, 2 to 0.1, and
    with one that begins at 0.5. Training anneals tau, so its beginning is the choice: at 2 the weights of a fresh
    scorer are nearly alike and the gradient is smooth, at 0.5 they are told apart from the first step on. Each further
    schedule would cost a training of half of all operators. A tau in an operator's name is kept as it is.

    Args:
        ops: names, classes or objects, beside the registered ones.

    Raises:
        UsageError: no operator, or two different ones of the same name.

    Example:
        >>> [c.label for c in candidates(["lapsum:tau=0.3+scale"])][:3]
        ['lapsum:tau=0.3+scale', 'lapsum+vpnoise, tau 2:0.1', 'lapsum+vpnoise, tau 0.5:0.1']
    """
    named: dict[str, Any] = {}
    for each in [*ops, *registry.registered()]:
        operator = registry.build(each)
        name = registry.label(operator)
        if named.setdefault(name, operator) != operator:
            raise UsageError(f"two operators are called {name}; make it a frozen dataclass: its fields are in its name")
    return [
        Candidate(operator, tau, several=len(schedules) > 1)
        for operator in named.values()
        for schedules in [_schedules(operator)]
        for tau in schedules
    ]


def words(tau: Schedule) -> str:
    """Return a schedule as the option ``--tau`` takes it."""
    first, last = tau
    return "own" if first is None or last is None else f"{first:g}:{last:g}"


def _schedules(operator: Any) -> tuple[Schedule, ...]:
    if own_tau(operator):
        return (OWN,)
    return (USUAL,) if temperature(operator) is None else (USUAL, SHARP)

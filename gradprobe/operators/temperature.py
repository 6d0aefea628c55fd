"""Temperature of an operator: the field ``tau`` of its relaxation, and the operator's name without it."""

import dataclasses
import re
from typing import Any


def temperature(operator: Any) -> float | None:
    """Return the temperature of an operator's weights; None if it has none, or one of its backward alone.

    Example:
        >>> from gradprobe.operators.registry import build
        >>> temperature(build("vpnoise:tau=0.3")), temperature(build("hard")), temperature(build("gumbel"))
        (0.3, None, None)
    """
    part = getattr(operator, "relaxation", operator)
    tau = getattr(part, "tau", None)
    if not dataclasses.is_dataclass(part) or not isinstance(tau, int | float):
        return None
    return None if getattr(part, "tau_of_backward", False) else float(tau)


def at_temperature(operator: Any, tau: float) -> Any:
    """Return the operator with its weights at another temperature; itself if `temperature` gives None.

    Example:
        >>> from gradprobe.operators.registry import build, label
        >>> label(at_temperature(build("vpnoise:sigma=unit"), 0.01))
        'lapsum:tau=0.01+vpnoise:sigma=unit'
    """
    return operator if temperature(operator) is None else at_tau(operator, tau)


def at_tau(operator: Any, tau: float) -> Any:
    """Return the operator with another ``tau``, forward or backward; itself if its relaxation has none.

    Example:
        >>> from gradprobe.operators.registry import build
        >>> at_tau(build("vpnoise"), 0.1)
        Operator(relaxation=LapSum(tau=0.1), throttle=VPNoise(sigma='rms'))
    """
    relaxation = getattr(operator, "relaxation", None)
    if relaxation is not None:
        changed = at_tau(relaxation, tau)
        return operator if changed is relaxation else dataclasses.replace(operator, relaxation=changed)
    if dataclasses.is_dataclass(operator) and any(f.name == "tau" for f in dataclasses.fields(operator)):
        return dataclasses.replace(operator, tau=tau)  # type: ignore[type-var]
    return operator


def own_tau(operator: Any) -> bool:
    """Return True if the operator's ``tau`` differs from its default, so that somebody chose it."""
    relaxation: Any = getattr(operator, "relaxation", operator)
    if not dataclasses.is_dataclass(relaxation):
        return False
    return any(f.name == "tau" and getattr(relaxation, f.name) != f.default for f in dataclasses.fields(relaxation))


def family(op: str) -> str:
    """Return an operator's name without its ``tau``.

    Example:
        >>> family("lapsum:tau=0.01+vpnoise:sigma=unit"), family("my.py:Op:tau=0.3,width=2")
        ('lapsum+vpnoise:sigma=unit', 'my.py:Op:width=2')
    """
    return re.sub(r":(?=\+|$)", "", re.sub(r"(?<=:)tau=[^,+]*,?|,tau=[^,+]*", "", op))

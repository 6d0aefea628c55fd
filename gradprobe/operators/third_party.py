"""Role of a third party's operator or selector."""

import functools
import inspect
from typing import Any, Literal

Role = Literal["operator", "relaxation", "throttle", "selector", "none"]


def role_of(thing: Any) -> Role:
    """Return the role of an object, function or class (once instantiated), from the signature of its call.

    ``(patches, scores, k, noise)`` is an operator's, ``(patches, weights, k, noise)`` a throttle's and ``(scores, k,
    noise)`` a relaxation's signature. ``(view, k)`` is a selector's; since many functions take two arguments, the
    first must be called ``view`` or the second ``k``. A call without a readable signature counts as an operator's; one
    whose arguments have an operator's names but no ``noise`` has no role.

    Example:
        >>> role_of(lambda scores, k, noise: scores), role_of(lambda view, k: view)
        ('relaxation', 'selector')
    """
    call, own = (getattr(thing, "__call__", None), (None,)) if inspect.isclass(thing) else (thing, ())  # noqa: B004
    if not callable(call) or (inspect.isclass(thing) and not any("__call__" in vars(c) for c in thing.__mro__)):
        return "none"
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return "operator"
    names = list(signature.parameters)[len(own) :]
    if names[:1] == ["view"] and _takes(signature, *own, 0, 0):
        return "selector"
    if _takes(signature, *own, 0, 0, 0, noise=0):
        return "throttle" if names[1:2] == ["weights"] else "operator"
    if names[:2] == ["patches", "scores"]:
        return "none"
    if _takes(signature, *own, 0, 0, 0, 0):  # a throttle's noise is passed by position
        return "throttle"
    if _takes(signature, *own, 0, 0, 0):
        return "relaxation"
    return "selector" if names[1:2] == ["k"] and _takes(signature, *own, 0, 0) else "none"


def parts_of(thing: Any) -> list[Any]:
    """Return the relaxation and the throttle of an `Operator`, or any other operator alone."""
    return [thing.relaxation, thing.throttle] if type(thing).__name__ == "Operator" else [thing]


def defining(item: Any) -> Any:
    """Return the function or class whose code runs when an object is called."""
    if isinstance(item, functools.partial):
        return defining(item.func)
    return item if inspect.isroutine(item) else type(item)


def _takes(signature: inspect.Signature, *arguments: Any, **named: Any) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True

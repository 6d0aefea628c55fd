"""Role of a third party's operator or selector, and the hash of its code."""

import functools
import hashlib
import inspect
import pickle
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Literal

Role = Literal["operator", "relaxation", "throttle", "selector", "none"]


def role_of(thing: Any) -> Role:
    """Return the role of an object, function or class (once instantiated), from the signature of its call.

    ``(patches, scores, k, noise)`` is an operator's, ``(patches, weights, k, noise)`` a throttle's and ``(scores, k,
    noise)`` a relaxation's signature. ``(view, k)`` is a selector's; since many functions take two arguments, the
    first must be called ``view`` or the second ``k``. A call without a readable signature counts as an operator's.

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
    if _takes(signature, *own, 0, 0, 0, 0):  # a throttle's noise is passed by position
        return "throttle"
    if _takes(signature, *own, 0, 0, 0):
        return "relaxation"
    return "selector" if names[1:2] == ["k"] and _takes(signature, *own, 0, 0) else "none"


def parts_of(thing: Any) -> list[Any]:
    """Return the relaxation and the throttle of an `Operator`, or any other operator alone."""
    return [thing.relaxation, thing.throttle] if type(thing).__name__ == "Operator" else [thing]


def code_of(thing: Any) -> str | None:
    """Return a hash of a third party's code and state, None for built-in operators.

    It covers the source files and everything the objects hold except the fields of dataclasses, which are part of the
    name. A stored answer therefore becomes stale when the code or the state changes.
    """
    files, rest = set(), []
    for item in parts_of(thing):
        code = defining(item)
        if (code.__module__ or "").startswith("gradprobe."):
            continue
        file = _source_file(code)
        if file:
            files.add(file)
        if not file or "<" in code.__qualname__:  # no source, or a name that is not unique in its file
            rest.append(b"".join(_bytecode(code)))
        rest.append(_state(item))
    blob = b"".join([Path(f).read_bytes() for f in sorted(files)] + rest)
    return hashlib.sha256(blob).hexdigest()[:16] if files or rest else None


def _takes(signature: inspect.Signature, *arguments: Any, **named: Any) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True


def defining(item: Any) -> Any:
    """Return the function or class whose code runs when an object is called."""
    if isinstance(item, functools.partial):
        return defining(item.func)
    return item if inspect.isroutine(item) else type(item)


def _source_file(code: Any) -> str | None:
    """Return the file that defines a function or class; None at a prompt or in a notebook."""
    try:
        file = inspect.getsourcefile(code)
    except (TypeError, OSError):  # built in, or of a main program without a file
        return None
    return file if file and Path(file).is_file() else None


def _bytecode(code: Any) -> Iterator[bytes]:
    """Yield instructions and constants of a function, or of a class's methods and their closures."""
    functions = [code] if inspect.isroutine(code) else [f for c in code.__mro__ for f in vars(c).values()]
    for function in functions:
        if isinstance(inner := getattr(function, "__code__", None), CodeType):
            yield from _instructions(inner)
        if inspect.isfunction(function) and not inspect.isroutine(code):
            yield _state(function)


def _instructions(code: CodeType) -> Iterator[bytes]:
    yield code.co_code + repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        else:
            yield repr(constant).encode()


def _state(item: Any) -> bytes:
    """Return everything an object holds beside the fields in its name, as bytes; empty if it holds nothing."""
    if isinstance(item, functools.partial):
        content: Any = (item.args, sorted(item.keywords.items()), _state(item.func))
    elif inspect.isfunction(item):
        content = [cell.cell_contents for cell in item.__closure__ or () if cell.cell_contents is not item]
    elif inspect.ismethod(item):
        content = vars(item.__self__) if hasattr(item.__self__, "__dict__") else item.__self__
    else:
        content = None if is_dataclass(item) else getattr(item, "__dict__", None)
    if not content:
        return b""
    try:
        return pickle.dumps(content)
    except Exception:  # not picklable; an address in repr makes the hash differ between processes, never stale
        return repr(content).encode()

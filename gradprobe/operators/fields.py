"""Fields of operators in text: ``tau=0.3,sigma=unit`` to the arguments of a dataclass, and back."""

import dataclasses
import inspect
import re
import typing
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest

FLAG = "true"  # value of a field that is named alone


def split(spec: str) -> tuple[str, dict[str, str]]:
    """Split a name from its fields.

    Raises:
        UsageError: There is no name, or something other than ``field=value`` or ``field``, which is ``field=true``.

    Example:
        >>> split("lapsum:tau=0.3"), split("my_ops.py:Mine:width=2,tau=1")
        (('lapsum', {'tau': '0.3'}), ('my_ops.py:Mine', {'width': '2', 'tau': '1'}))
        >>> split("zoo:exact")
        ('zoo', {'exact': 'true'})
    """
    match = re.match(r"^(?P<name>[^:]+\.py:\w+|[^:]+)(?::(?P<fields>.*))?$", spec)
    if not match:
        raise UsageError(
            f"{spec!r} is no name; type for example vpnoise, lapsum:tau=0.3+gather or my_ops.py:MyOperator"
        )
    fields: dict[str, str] = {}
    for item in filter(None, (match["fields"] or "").split(",")):
        key, equals, value = item.partition("=")
        if not key.strip() or (equals and not value):
            raise UsageError(f"{spec!r}: fields are written field=value,field=value; got {item!r}")
        fields[key.strip()] = value.strip() if equals else FLAG
    return match["name"].strip(), fields


def types_of(cls: Any) -> dict[str, Any]:
    """Return the type of each field that a dataclass is made with; empty for anything else.

    Raises:
        GradprobeError: An annotation cannot be evaluated.
    """
    if not dataclasses.is_dataclass(cls):
        return {}
    name = getattr(cls, "__name__", str(cls))
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:  # anyone's annotations
        raise GradprobeError(f"the types of the fields of {name} cannot be read: {error}") from error
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def make(cls: Any, fields: dict[str, str], spec: str) -> Any:
    """Make an object of a class from the text of its fields; a function is returned unchanged.

    Args:
        cls: Class or function.
        fields: Text of each field.
        spec: Whole name, for errors.

    Raises:
        UsageError: An unknown field, a value that it does not take, or a field without a value.
    """
    if not inspect.isclass(cls):
        if fields:
            raise UsageError(f"{spec!r}: a function has no fields; write a frozen dataclass to have some")
        return cls
    types = types_of(cls)
    values = {}
    for field, text in fields.items():
        if field not in types:
            known = nearest(field, types) if types else "it has none"
            raise UsageError(f"{spec!r}: {cls.__name__} has no field {field!r}; {known}")
        values[field] = _value(text, types[field], f"{spec!r}: {field}={text}")
    try:
        return cls(**values)
    except TypeError as error:
        raise UsageError(f"{spec!r}: {error}; give every field that has no default") from error


def changed(thing: Any) -> str:
    """Return the fields of a dataclass object that differ from their defaults, in order; not those left out of ``==``.

    Example:
        >>> from gradprobe.operators.relaxations.lapsum import LapSum
        >>> changed(LapSum(tau=0.3)), changed(LapSum())
        ('tau=0.3', '')
    """
    if not dataclasses.is_dataclass(thing):
        return ""
    values = {f.name: (getattr(thing, f.name), f.default) for f in dataclasses.fields(thing) if f.compare}
    return ",".join(
        name if value is True else f"{name}={text(value)}"
        for name, (value, default) in values.items()
        if value != default
    )


def text(value: Any) -> str:
    """Return the shortest text that reads back as the same value; without a plus, which joins the parts of operators.

    Example:
        >>> text(1.0), text(2 / 3), text(1e6), text("rms")
        ('1', '0.6666666666666666', '1e06', 'rms')
    """
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return (short if float(short) == value else str(value)).replace("e+", "e")


def _value(text: str, hint: Any, typed: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        if text not in typing.get_args(hint):
            raise UsageError(f"{typed} is not possible; {nearest(text, map(str, typing.get_args(hint)))}")
        return text
    types = typing.get_args(hint) or (hint,)
    if bool in types and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        if number in types:
            try:
                return number(text)
            except ValueError:
                continue
    if str in types:
        return text
    raise UsageError(
        f"{typed} is not possible; it must be {' or '.join(getattr(each, '__name__', str(each)) for each in types)}, "
        "written field=value"
    )

"""Fields of operators in text: ``tau=0.3,sigma=unit`` to the arguments of a dataclass, and back."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Sequence
from numbers import Real
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.operators.code_hash import digest
from gradprobe.ranges import plain

FLAG = "true"  # value of a field that is named alone
LONG = 60  # characters; a longer value is named by its hash


def split(spec: str) -> tuple[str, dict[str, str]]:
    """Split a name from its fields.

    Raises:
        UsageError: There is no name, something other than ``field=value`` or ``field``, which is ``field=true``, or a
            field twice.

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
        if (name := key.strip()) in fields:
            raise UsageError(f"{spec!r}: the field {name} is given twice; give each field once")
        fields[name] = value.strip() if equals else FLAG
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
    values = {f.name: (getattr(thing, f.name), _default(f)) for f in dataclasses.fields(thing) if f.compare}
    return ",".join(
        name if value is True else f"{name}={text(value)}"
        for name, (value, default) in values.items()
        if _differs(value, default)
    )


def text(value: Any) -> str:
    """Return the shortest text that reads back as the same value; without a plus, which joins the parts of operators.

    A value that has no such text, such as a tensor, is named by its type and a hash.

    Example:
        >>> text(1.0), text(2 / 3), text(1e6), text("rms")
        ('1', '0.6666666666666666', '1e06', 'rms')
    """
    value = plain(value) if isinstance(value, Real) else value
    if isinstance(value, float):
        short = f"{value:g}"
        return (short if float(short) == value else str(value)).replace("e+", "e")
    if isinstance(value, str) or not _hides(value):
        return str(value)
    return f"{getattr(value, '__name__', type(value).__name__).strip('<>')}-{digest(value)[:8]}"


def _hides(value: Any) -> bool:
    """Return True if the text of a value does not tell all of it: numbers are rounded, an object has an address."""
    inner = value if isinstance(value, list | tuple) else ()
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif callable(value) or hasattr(value, "__array__") or hasattr(value, "state_dict"):
        return True
    shown = str(value)
    return any(map(_hides, inner)) or len(shown) > LONG or "\n" in shown or " at 0x" in shown


def _default(field: dataclasses.Field) -> Any:
    """Return the default of a field, also one that is made anew; `dataclasses.MISSING` if there is none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _differs(value: Any, default: Any) -> bool:
    if value is default:
        return False
    try:
        return bool(value != default)
    except Exception:  # an array has as many answers as numbers
        return digest(value) != digest(default)


def _value(text: str, hint: Any, typed: str) -> Any:
    """Return the value of a field from its text.

    Raises:
        UsageError: The field's type does not take it; the message says what it takes.
    """
    kinds = _alternatives(hint)
    literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
    choices = [choice for kind in literals for choice in typing.get_args(kind)]
    for choice in choices:
        if text == str(choice):
            return choice
    if types.NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    if str in kinds:
        return text
    if len(literals) == len(kinds):
        raise UsageError(f"{typed} is not possible; {nearest(text, map(str, choices))}")
    raise UsageError(f"{typed} is not possible; {_needed(kinds, choices)}")


def _alternatives(hint: Any) -> Sequence[Any]:
    """Return the members of a union, or a type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(hint) for kind in _alternatives(member)]
    return [hint]


def _needed(kinds: Sequence[Any], choices: Sequence[Any]) -> str:
    """Return words for what a field takes."""
    names = {types.NoneType: "None", bool: "true or false", int: "int", float: "float", str: "str"}
    named = [*map(str, choices), *(names[kind] for kind in kinds if kind in names)]
    if not named:
        return f"a value of type {' or '.join(map(_type_name, kinds))} cannot be typed: make the object in Python"
    return f"it must be {' or '.join(named)}, written field=value"


def _type_name(kind: Any) -> str:
    return kind.__name__ if inspect.isclass(kind) and not typing.get_args(kind) else str(kind)

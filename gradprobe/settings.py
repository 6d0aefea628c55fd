"""Settings declared once: each field of a frozen dataclass is a Python argument, a command-line option and a key.

A probe's settings are a frozen dataclass whose fields are made by `setting`. From it follow the checks, the stored
question, the way back from it, the keyword arguments of the Python function and the options of the command. Importing
this module imports no torch.
"""

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from gradprobe.errors import UsageError, in_words, nearest
from gradprobe.ranges import RANGES, Range, check_number, plain

LEARNING_RATE = 2e-4  # of the scorer's training before a measurement, unless another is given
RANKED = "ranked:"  # before the name of a ranking, where a question has an operator's name
Fields = ParamSpec("Fields")
Arguments = TypeVar("Arguments")
Taken = TypeVar("Taken", covariant=True)
Settings = TypeVar("Settings")
First = TypeVar("First")
Second = TypeVar("Second")
Result = TypeVar("Result")

REQUIRED = object()  # in the place of `Codec.absent`


@dataclass(frozen=True)
class Codec:
    """A setting as the question holds it, where that differs from the value in Python.

    Attributes:
        write: ``value -> JSON``.
        read: ``JSON -> value``.
        absent: Value that a question states by leaving the key out; `REQUIRED` if there is none.
    """

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    absent: Any = REQUIRED


@dataclass(frozen=True)
class Declared:
    """Metadata of a setting, see `setting`."""

    help: str
    option: str
    key: str
    least: float | None
    choices: tuple[str, ...]
    asked_if: Callable[[Any], bool]
    codec: Codec


LEADING = {  # parameters that come before the fields
    "task": "Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.",
    "operator": "Operator that selects: itself, its name or its class.",
    "ops": "One operator or several, each itself, its name or its class; all others are compared with the first.",
}
PLAIN = Codec(lambda value: value, lambda value: value)
OPTIONAL = Codec(PLAIN.write, PLAIN.read, absent=None)


def setting(
    default: Any, help: str, *, option: str = "", key: str = "", least: float | None = None,
    choices: Iterable[str] = (), asked_if: Callable[[Any], bool] | None = None, codec: Codec = PLAIN,
) -> Any:  # fmt: skip
    """Declare a field of a probe's settings.

    Args:
        default: in Python and on the command line.
        help: one line, shown by ``--help`` and in the function's docstring.
        option: name on the command line; the field's own by default. Its range is that of `ranges.RANGES`, if any.
        key: name in the question; the field's own by default.
        least: smallest number accepted, where it is larger than that of the option's range.
        choices: names accepted.
        asked_if: predicate of the settings; where it is false the value decides no number and is no part of the
            question. Default: always part of it.
        codec: conversion to the question and back.

    Example:
        >>> @dataclass(frozen=True)
        ... class Own:
        ...     images: int = setting(32, "Images.", least=2)
        >>> asked(Own(images=8)), settings_from(Own, {"probe": "own", "images": 8})
        ({'images': 8}, Own(images=8))
    """
    declared = Declared(help, option, key, least, tuple(choices), asked_if or (lambda settings: True), codec)
    return dataclasses.field(default=default, metadata={"setting": declared})


def declared(settings: Any) -> dict[str, Declared]:
    """Return the declared fields of a settings class or object by name; option and key are filled in."""
    return {
        f.name: dataclasses.replace(
            metadata, option=metadata.option or f.name.replace("_", "-"), key=metadata.key or f.name
        )
        for f in dataclasses.fields(settings)
        if (metadata := f.metadata.get("setting"))
    }


def check(settings: Any) -> None:
    """Refuse a value that its field does not take.

    Raises:
        UsageError: names the option and the values it takes.
    """
    for name, each in declared(settings).items():
        value = getattr(settings, name)
        if each.choices and value not in each.choices:
            raise UsageError(f"--{each.option} {value} is not possible; {nearest(value, each.choices)}")
        for number in value if isinstance(value, tuple | list) else [value]:
            _check_number(each, number)


def asked(settings: Any) -> dict[str, Any]:
    """Return the part of the question that settings decide."""
    return {
        each.key: each.codec.write(getattr(settings, name))
        for name, each in declared(settings).items()
        if each.asked_if(settings) and getattr(settings, name) != each.codec.absent
    }


def settings_from(cls: type[Settings], question: Mapping[str, Any]) -> Settings:
    """Return the settings of a stored question or of a preset.

    Raises:
        UsageError: the question lacks one; the message names it.
    """
    fields = declared(cls)
    given = {name: each.codec.read(question[each.key]) for name, each in fields.items() if each.key in question}
    absent = {name: each.codec.absent for name, each in fields.items() if each.codec.absent is not REQUIRED}
    settings = cls(**absent | given)
    if lacking := [n for n, each in fields.items() if each.asked_if(settings) and n not in {*absent, *given}]:
        defaults = "; ".join(f"{fields[name].key} = {_toml(cls, name)}" for name in lacking)
        raise UsageError(f"a question of {question.get('probe')} needs {', '.join(lacking)}; write: {defaults}")
    return settings


class Taking(Protocol[Fields, Taken]):
    """Type of the decorator that `takes` returns: at most two leading parameters, then the fields."""

    @overload
    def __call__(self, function: Callable[[Taken], Result]) -> Callable[Fields, Result]: ...
    @overload
    def __call__(self, function: Callable[[First, Taken], Result]) -> Callable[Concatenate[First, Fields], Result]: ...
    @overload
    def __call__(
        self, function: Callable[[First, Second, Taken], Result]
    ) -> Callable[Concatenate[First, Second, Fields], Result]: ...


def takes(arguments: Callable[Fields, Arguments]) -> Taking[Fields, Arguments]:
    """Make the fields of a frozen dataclass the keyword arguments of a function (a decorator).

    The decorated function takes an object of that class as its last parameter; callers pass its fields. Signature and
    the ``Args`` section of the docstring follow from the declarations, so that a default is written once.

    Example:
        >>> @dataclass(frozen=True)
        ... class Own:
        ...     images: int = setting(32, "Images.")
        >>> @takes(Own)
        ... def count(task: str, given: Own) -> int:
        ...     '''Count images.'''
        ...     return given.images
        >>> count("a task"), count("a task", images=8), str(inspect.signature(count))
        (32, 8, '(task: str, images: int = 32) -> int')
    """

    def decorate(function: Any) -> Any:
        leading = list(inspect.signature(function).parameters.values())[:-1]
        own = [p.replace(annotation=p.annotation) for p in inspect.signature(arguments).parameters.values()]
        signature = inspect.Signature([*leading, *own], return_annotation=inspect.signature(function).return_annotation)

        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            known = {p.name for p in own}
            if unknown := [name for name in named if name not in known | {p.name for p in leading}]:
                every = known | {p.name for p in leading}
                raise UsageError(f"{function.__name__} takes no {unknown[0]}=; {nearest(unknown[0], every)}")
            try:
                bound = signature.bind(*values, **named)
            except TypeError as error:
                by_place = ", ".join(p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY)
                call = f"{function.__name__}({by_place}), and the rest by name"
                raise UsageError(f"{function.__name__}: {error}; call it as {call}") from None
            first = [bound.arguments[p.name] for p in leading]
            made: Any = arguments
            return function(*first, made(**{n: plain(v) for n, v in bound.arguments.items() if n in known}))

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = _with_arguments(function.__doc__ or "", [p.name for p in leading], arguments)
        return call

    return decorate  # type: ignore[return-value]


def argument(default: Any, help: str, *, keyword: bool = True) -> Any:
    """Declare a field that is an argument of the Python function and no part of any question."""
    return dataclasses.field(default=default, kw_only=keyword, metadata={"help": help})


def _check_number(each: Declared, value: Any) -> None:
    if each.option in RANGES:
        if value is not None:
            check_number(each.option, value, each.least)
    elif each.least is not None and not (kind := Range(each.least, 10**8)).holds(value):
        raise UsageError(f"--{each.option} {in_words(value)} is not possible; give {kind}")


def _toml(cls: Any, name: str) -> str:
    default = declared(cls)[name].codec.write(next(f.default for f in dataclasses.fields(cls) if f.name == name))
    return f'"{default}"' if isinstance(default, str) else str(default)


def _with_arguments(doc: str, leading: Iterable[str], arguments: Any) -> str:
    """Return a docstring with an ``Args`` section before ``Returns``, made from the declarations."""
    described = {name: LEADING[name] for name in leading}
    for f in dataclasses.fields(arguments):
        described[f.name] = f.metadata["setting"].help if "setting" in f.metadata else f.metadata["help"]
    lines = [
        textwrap.fill(f"{name}: {help}", 120, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for name, help in described.items()
    ]
    section = "\n".join(["    Args:", *lines, ""])
    head, separator, tail = doc.partition("    Returns:")
    return f"{head}{section}\n{separator}{tail}" if separator else f"{doc.rstrip()}\n\n{section}"

"""A name -> the object it names: built-in tables, entry points, ``path/file.py:Class``.

An operator's name is ``relaxation[:field=value,...]+throttle[:field=value,...]`` or an alias; an alias takes the fields
of both its parts. The canonical name (`label`) leaves defaults out and can be typed back.
"""

import dataclasses
import functools
import importlib
import inspect
import re
import typing
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.errors import GradprobeError, UsageError, in_words, nearest
from gradprobe.operator_info import about_of
from gradprobe.operators.third_party import code_of, defining, parts_of, role_of
from gradprobe.operators.user_files import PATH, all_named, check_trusted, from_file, reason_of, refuse_bare

if TYPE_CHECKING:
    from gradprobe.core import AnyOperator, SelectionOperator

__all__ = ["build", "check_trusted", "code_of", "label", "names", "part", "registered"]

RELAXATIONS = {
    "hard": "gradprobe.operators.relaxations.hard:Hard",
    "lapsum": "gradprobe.operators.relaxations.lapsum:LapSum",
    "logistic": "gradprobe.operators.relaxations.logistic:Logistic",
    "probit": "gradprobe.operators.relaxations.probit:Probit",
    "capped-simplex": "gradprobe.operators.relaxations.capped_simplex:CappedSimplex",
    "sigmoid": "gradprobe.operators.relaxations.sigmoid:Sigmoid",
    "softsort": "gradprobe.operators.relaxations.softsort:SoftSort",
    "neuralsort": "gradprobe.operators.relaxations.neuralsort:NeuralSort",
    "gumbel-ste": "gradprobe.operators.relaxations.gumbel_ste:GumbelSTE",
    "gumbel-softmax": "gradprobe.operators.relaxations.gumbel_softmax:GumbelSoftmax",
    "relaxed-subset": "gradprobe.operators.relaxations.relaxed_subset:RelaxedSubset",
    "hard-concrete": "gradprobe.operators.relaxations.hard_concrete:HardConcrete",
    "perturbed": "gradprobe.operators.relaxations.perturbed:Perturbed",
    "simple": "gradprobe.operators.relaxations.simple:Simple",
    "imle": "gradprobe.operators.relaxations.imle:IMLE",
    "reinmax": "gradprobe.operators.relaxations.reinmax:ReinMax",
    "decoupled-ste": "gradprobe.operators.relaxations.decoupled_ste:DecoupledSTE",
    "shiva": "gradprobe.operators.relaxations.shiva:Shiva",
    "plackett-luce": "gradprobe.operators.relaxations.plackett_luce:PlackettLuce",
    "random": "gradprobe.operators.relaxations.random:Random",
}
THROTTLES = {
    "gather": "gradprobe.operators.throttles.gather:Gather",
    "zero": "gradprobe.operators.throttles.zero:Zero",
    "scale": "gradprobe.operators.throttles.scale:Scale",
    "vpnoise": "gradprobe.operators.throttles.vpnoise:VPNoise",
    "scale-vpnoise": "gradprobe.operators.throttles.scale_vpnoise:ScaleVPNoise",
    "attention": "gradprobe.operators.throttles.attention:Attention",
    "dynamicvit": "gradprobe.operators.throttles.dynamicvit:DynamicViT",
    "mean": "gradprobe.operators.throttles.mean:Mean",
}
ALIASES = {
    "hard": "hard+gather",
    "gumbel": "gumbel-ste+gather",
    "gumbel-softmax": "gumbel-softmax+dynamicvit",
    "plackett-luce": "plackett-luce+gather",
    "scale": "lapsum+scale",
    "vpnoise": "lapsum+vpnoise",
    "softtopk": "lapsum+attention",
    "vpscale": "lapsum+scale-vpnoise",
}
SUITED = {  # the throttle that a relaxation was published with, or that suits it; scale for all others
    "lapsum": "vpnoise",
    "logistic": "vpnoise",
    "probit": "vpnoise",
    "capped-simplex": "vpnoise",
    "sigmoid": "attention",
    "gumbel-ste": "gather",
    "simple": "gather",
    "imle": "gather",
    "plackett-luce": "gather",
    "gumbel-softmax": "dynamicvit",
    "reinmax": "dynamicvit",
    "decoupled-ste": "dynamicvit",
    "shiva": "zero",
}
SCORERS = {"mlp": "gradprobe.models.scorers:MLP", "transformer": "gradprobe.models.scorers:Transformer"}
DENOISERS = {
    "token": "gradprobe.models.denoisers:Token",
    "global": "gradprobe.models.denoisers:Global",
    "none": "gradprobe.models.denoisers:Nothing",
}
TABLES = {
    "relaxation": RELAXATIONS, "throttle": THROTTLES, "scorer": SCORERS, "denoiser": DENOISERS, "operator": {}
}  # fmt: skip

_typed: dict[Any, str] = {}  # class or function -> the name it was asked for by, so that `label` can be typed back
_objects: dict[str, Any] = {}  # canonical name -> an operator that was given as an object, for as long as this process


def names(kind: str) -> list[str]:
    """Every name of a kind (``relaxation``, ``throttle``, ``scorer``, ``operator``), entry points included."""
    found = set(plugins(kind)) | set(TABLES[kind])
    return sorted(found | set(ALIASES) if kind == "operator" else found)


def registered() -> list[str]:
    """An operator for every relaxation and throttle that has a name and lets a gradient through, entry points included.

    Relaxations come with the throttle of `SUITED`, throttles that none of them has with ``lapsum``; then operators
    of third parties, whole.
    """
    found = [f"{name}+{SUITED.get(name, 'scale')}" for name in dict.fromkeys([*RELAXATIONS, *names("relaxation")])]
    taken = {spec.partition("+")[2] for spec in found}
    found += [f"lapsum+{name}" for name in dict.fromkeys([*THROTTLES, *names("throttle")]) if name not in taken]
    found += [name for name in names("operator") if name not in ALIASES]
    built = {spec: build(spec) for spec in dict.fromkeys(found)}
    return [label(op) for op in built.values() if getattr(about_of(op), "gradient", None) != "none"]


def build(spec: "AnyOperator") -> "SelectionOperator":
    """The operator that a name means; one that is given as an object or function is given back.

    A path is taken as the user's own word; names read from files go through `check_trusted` first.

    Args:
        spec: ``vpnoise``, ``vpnoise:tau=0.3``, ``gumbel-ste:backward=soft+zero``, ``my_ops.py:MyOperator``, ...; an
            object or function that is called as an operator; or a class, of which one with its defaults is made.

    Returns:
        An `Operator`, or the third party's own callable.

    Raises:
        UsageError: an unknown name or field, a value the field does not take, or what is no operator.

    Example:
        >>> build("vpnoise:tau=0.3")
        Operator(relaxation=LapSum(tau=0.3), throttle=VPNoise(sigma='rms'))
        >>> build(build("gumbel")) == build("gumbel")
        True
    """
    from gradprobe.core import Operator

    if not isinstance(spec, str):
        return _own(spec)
    if not all_named(spec):
        _objects.pop(spec, None)  # the same relative path is another file in another folder
    if spec in _objects:
        return _objects[spec]
    first, plus, second = spec.partition("+")
    if plus:
        return Operator(part("relaxation", first), part("throttle", second))
    name, fields = _split(spec)
    if name not in ALIASES:
        if name in RELAXATIONS or name in THROTTLES:
            raise UsageError(
                f"operator {spec!r}: {name} is only one part; join a relaxation and a throttle, e.g. lapsum+vpnoise"
            )
        return _whole(part("operator", spec), spec)
    left, right = ALIASES[name].split("+")
    relaxation, throttle = _find("relaxation", left), _find("throttle", right)
    own, other = _fields_of(relaxation), _fields_of(throttle)
    for field in fields:
        if field not in own and field not in other:
            raise UsageError(f"operator {spec!r}: {name} has no field {field!r}; {nearest(field, {**own, **other})}")
    return Operator(
        _make(relaxation, {f: v for f, v in fields.items() if f in own}, spec),
        _make(throttle, {f: v for f, v in fields.items() if f not in own}, spec),
    )


def part(kind: str, spec: str) -> Any:
    """One relaxation, throttle, scorer, denoiser or whole operator by name and fields.

    Raises:
        UsageError: an unknown name or field, or a value the field does not take.
    """
    if not isinstance(spec, str):
        raise UsageError(
            f"{in_words(spec)} is not the name of a {kind}; give a name, such as {next(iter(TABLES[kind]))!r}"
        )
    name, fields = _split(spec)
    found = _find(kind, name)
    try:
        made = _make(found, fields, spec)
    except GradprobeError:
        raise
    except Exception as error:  # anyone's class
        raise GradprobeError(f"{spec!r} cannot be made: {reason_of(error)}; {_remedy(kind, name)}") from error
    method = "make" if kind in ("scorer", "denoiser") else "__call__"
    if not callable(getattr(made, method, None)):
        raise GradprobeError(f"{spec!r} is no {kind}: {type(made).__name__} has no {method}; {_remedy(kind, name)}")
    return made


def label(thing: Any) -> str:
    """The canonical name of an operator, relaxation, throttle or scorer: fields in order, defaults left out.

    Example:
        >>> label(build("vpnoise:sigma=unit,tau=1"))
        'lapsum+vpnoise:sigma=unit'
    """
    if type(thing).__name__ == "Operator" and hasattr(thing, "throttle"):
        return f"{label(thing.relaxation)}+{label(thing.throttle)}"
    if isinstance(thing, functools.partial):
        settings = ",".join(f"{key}={_text(value)}" for key, value in thing.keywords.items())
        return f"{label(thing.func)}:{settings}" if settings else label(thing.func)
    named = thing if inspect.isroutine(thing) else type(thing)
    name = _name_of(named) or f"{named.__module__}:{named.__qualname__}"
    if not dataclasses.is_dataclass(thing):
        return name
    changed = [
        f"{f.name}={_text(getattr(thing, f.name))}"
        for f in dataclasses.fields(thing)
        if getattr(thing, f.name) != f.default
    ]
    return f"{name}:{','.join(changed)}" if changed else name


def _split(spec: str) -> tuple[str, dict[str, str]]:
    match = re.match(r"^(?P<name>[^:]+\.py:\w+|[^:]+)(?::(?P<fields>.*))?$", spec)
    if not match:
        raise UsageError(
            f"{spec!r} is no name; type for example vpnoise, lapsum:tau=0.3+gather or my_ops.py:MyOperator"
        )
    fields: dict[str, str] = {}
    for item in filter(None, (match["fields"] or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UsageError(f"{spec!r}: fields are written field=value,field=value; got {item!r}")
        fields[key.strip()] = value.strip()
    return match["name"].strip(), fields


def _find(kind: str, name: str) -> Any:
    if match := PATH.fullmatch(name):
        found = from_file(Path(match["file"]), match["cls"])
    elif name in TABLES[kind]:
        module, _, attribute = TABLES[kind][name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    elif name.endswith(".py"):
        refuse_bare(Path(name))
    else:
        found = _from_package(kind, name)
    _typed[found] = name
    return found


def plugins(kind: str) -> dict[str, list[EntryPoint]]:
    """Entry points of a kind by name; several under one name are a clash, the same one found twice is not."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"gradprobe.{kind}s"):
        others = found.setdefault(point.name, [])
        if (package_of(point), point.value) not in [(package_of(each), each.value) for each in others]:
            others.append(point)
    return found


def package_of(point: EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _from_package(kind: str, name: str) -> Any:
    points = plugins(kind).get(name)
    if not points:
        raise UsageError(f"unknown {kind} {name!r}; {nearest(name, names(kind))}")
    if len(points) > 1:
        offers = " and ".join(f"{package_of(point)} ({point.value})" for point in points)
        raise GradprobeError(f"{kind} {name!r} is offered by {offers}; uninstall all but one of these packages")
    point = points[0]
    at_fault = f"{kind} {name!r} {_origin(point)}"
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # anyone's package
        raise GradprobeError(
            f"{at_fault} cannot be loaded: {reason_of(error)}; update or uninstall the package"
        ) from error
    if not callable(found):
        raise GradprobeError(f"{at_fault} is {type(found).__name__}, no class or function; ask its author")
    return found


def _origin(point: EntryPoint) -> str:
    return f"of the package {package_of(point)} (entry point {point.value})"


def _remedy(kind: str, name: str) -> str:
    """Name the maintainer of a broken part."""
    points = [] if name in TABLES[kind] else plugins(kind).get(name, [])
    return f"it is {_origin(points[0])}: update or uninstall that" if points else f"see the built-in {kind}s"


def _name_of(code: Any) -> str | None:
    """The name by which a class or function can be asked for; None if it was only ever given as an object."""
    built_in = {path: name for table in TABLES.values() for name, path in table.items()}
    return built_in.get(f"{code.__module__}:{code.__qualname__}") or _typed.get(code)


def _own(thing: Any) -> Any:
    """An operator that is given as an object, function or class."""
    operator = _make(thing, {}, thing.__name__) if inspect.isclass(thing) else thing
    if not callable(operator):
        raise UsageError(
            f"{in_words(operator)} cannot be called; give the name of an operator, such as 'vpnoise', or an object, a "
            "function or a class that is called with (patches, scores, k, noise) and returns a gradprobe.Selection"
        )
    name = label(operator)
    if any(_name_of(code) is None for code in map(defining, parts_of(operator))):
        _objects[name] = _whole(operator, name)
    return _whole(operator, name)


def _whole(operator: Any, name: str) -> Any:
    """An operator as it is; half of one is refused.

    Raises:
        UsageError: a relaxation or a throttle alone, or something else.
    """
    role = role_of(operator)
    if role == "none":
        raise UsageError(f"{name} cannot be called with (patches, scores, k, noise), as an operator is")
    if role != "operator":
        other, joined = ("throttle", f"{name}+gather") if role == "relaxation" else ("relaxation", f"lapsum+{name}")
        python = "gp.Operator(relaxation, throttle)"
        raise UsageError(f"{name} is a {role} alone; join it with a {other}: {joined} (in Python {python})")
    return operator


def _fields_of(cls: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        return {}
    name = getattr(cls, "__name__", str(cls))
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:  # anyone's annotations
        raise GradprobeError(f"the types of the fields of {name} cannot be read: {error}") from error
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _make(cls: Any, fields: dict[str, str], spec: str) -> Any:
    if not inspect.isclass(cls):
        if fields:
            raise UsageError(f"{spec!r}: a function has no fields; write a frozen dataclass to have some")
        return cls
    hints = _fields_of(cls)
    values = {}
    for field, text in fields.items():
        if field not in hints:
            known = nearest(field, hints) if hints else "it has none"
            raise UsageError(f"{spec!r}: {cls.__name__} has no field {field!r}; {known}")
        values[field] = _value(text, hints[field], f"{spec!r}: {field}={text}")
    try:
        return cls(**values)
    except TypeError as error:
        raise UsageError(f"{spec!r}: {error}; give every field that has no default") from error


def _value(text: str, hint: Any, said: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        if text not in typing.get_args(hint):
            raise UsageError(f"{said} is not possible; {nearest(text, map(str, typing.get_args(hint)))}")
        return text
    kinds = typing.get_args(hint) or (hint,)
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
    raise UsageError(f"{said} is not possible; it must be {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)

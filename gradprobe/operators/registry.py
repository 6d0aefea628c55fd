"""Names of operators and their objects: built-in ones, those of installed packages, ``path/file.py:Class``.

An operator's name is ``relaxation[:field=value,...]+throttle[:field=value,...]`` or an alias; an alias takes the fields
of both its parts. The canonical name (`label`) leaves defaults out and can be typed back.
"""

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.errors import GradprobeError, UsageError, in_words, nearest
from gradprobe.operator_info import about_of
from gradprobe.operators import built_in, packages
from gradprobe.operators.built_in import ALIASES, RELAXATIONS, TABLES, THROTTLES
from gradprobe.operators.code_hash import code_of
from gradprobe.operators.fields import changed, make, split, text, types_of
from gradprobe.operators.third_party import defining, parts_of, role_of
from gradprobe.operators.user_files import PATH, all_named, check_trusted, from_file, reason_of, refuse_bare

if TYPE_CHECKING:
    from gradprobe.core import AnyOperator, SelectionOperator

__all__ = ["build", "check_trusted", "code_of", "label", "names", "part", "registered", "suited"]

_typed: dict[Any, str] = {}  # class or function: the name it was asked for by, so that `label` can be typed back
_objects: dict[str, Any] = {}  # canonical name: an operator that was given as an object, for as long as this process


def names(kind: str) -> list[str]:
    """Return every name of a kind (``relaxation``, ``throttle``, ``operator``, ...): built-in ones, then packages'."""
    return list(dict.fromkeys([*TABLES[kind], *sorted(packages.plugins(kind))]))


def suited(relaxation: str) -> str:
    """Return the throttle that a relaxation is listed with, as its class says in ``suited``; else ``scale``.

    Example:
        >>> suited("lapsum"), suited("softsort")
        ('vpnoise', 'scale')
    """
    return getattr(_find("relaxation", relaxation), "suited", "scale")


def registered() -> list[str]:
    """Return one operator for each named relaxation and throttle with a gradient, installed packages included.

    Relaxations come with the throttle that suits them, the throttles left over with ``lapsum``; then whole operators of
    third parties.
    """
    specs = [f"{name}+{suited(name)}" for name in names("relaxation")]
    taken = {spec.partition("+")[2] for spec in specs}
    specs += [f"lapsum+{name}" for name in names("throttle") if name not in taken]
    specs += [name for name in names("operator") if name not in ALIASES]
    operators = map(build, dict.fromkeys(specs))
    return [label(op) for op in operators if getattr(about_of(op), "gradient", None) != "none"]


def build(spec: "AnyOperator") -> "SelectionOperator":
    """Return the operator of a name; an object or function is returned unchanged.

    A path is taken as the user's own word; names read from files go through `check_trusted` first.

    Args:
        spec: Name, such as ``vpnoise``, ``vpnoise:tau=0.3``, ``gumbel-ste:backward=soft+zero`` or
            ``my_ops.py:MyOperator``; or an object or function that is called as an operator; or a class of such
            objects, which is made with its defaults.

    Returns:
        An `Operator`, or the third party's own callable.

    Raises:
        UsageError: An unknown name or field, a value that the field does not take, or something that is no operator.

    Example:
        >>> build("vpnoise:tau=0.3")
        Operator(relaxation=LapSum(tau=0.3), throttle=VPNoise(sigma='rms'))
        >>> build(build("gumbel")) == build("gumbel")
        True
    """
    from gradprobe.core import Operator

    if not isinstance(spec, str):
        return _given(spec)
    if not all_named(spec):
        _objects.pop(spec, None)  # the same relative path is another file in another folder
    if spec in _objects:
        return _objects[spec]
    first, plus, second = spec.partition("+")
    if plus:
        return Operator(part("relaxation", first), part("throttle", second))
    name, fields = split(spec)
    if name not in ALIASES:
        if name in RELAXATIONS or name in THROTTLES:
            raise UsageError(
                f"operator {spec!r}: {name} is only one part; join a relaxation and a throttle, e.g. lapsum+vpnoise"
            )
        return _whole(part("operator", spec), spec)
    left, right = ALIASES[name].split("+")
    relaxation, throttle = _find("relaxation", left), _find("throttle", right)
    own, other = types_of(relaxation), types_of(throttle)
    for field in fields:
        if field not in own and field not in other:
            raise UsageError(f"operator {spec!r}: {name} has no field {field!r}; {nearest(field, {**own, **other})}")
    return Operator(
        make(relaxation, {f: v for f, v in fields.items() if f in own}, spec),
        make(throttle, {f: v for f, v in fields.items() if f not in own}, spec),
    )


def is_object(spec: str) -> bool:
    """Return True if an operator was given as an object, so that no other process can build it by its name."""
    return spec in _objects


def part(kind: str, spec: str) -> Any:
    """Return one relaxation, throttle, scorer, denoiser or whole operator by name and fields.

    Raises:
        UsageError: An unknown name or field, or a value that the field does not take.
        GradprobeError: A third party's class cannot be made, or is no such part.
    """
    if not isinstance(spec, str):
        raise UsageError(
            f"{in_words(spec)} is not the name of a {kind}; give a name, such as {next(iter(TABLES[kind]))!r}"
        )
    name, fields = split(spec)
    code = _find(kind, name)
    try:
        thing = make(code, fields, spec)
    except GradprobeError:
        raise
    except Exception as error:  # anyone's class
        raise GradprobeError(f"{spec!r} cannot be made: {reason_of(error)}; {_remedy(kind, name)}") from error
    method = "make" if kind in ("scorer", "denoiser") else "__call__"
    if not callable(getattr(thing, method, None)):
        raise GradprobeError(f"{spec!r} is no {kind}: {type(thing).__name__} has no {method}; {_remedy(kind, name)}")
    if kind == "selector" and (role := role_of(thing)) not in ("selector", "none"):
        raise UsageError(f"{name} is called as {role}s are; a selector is called with (view, k)")
    return thing


def label(thing: Any) -> str:
    """Return the canonical name of an operator, relaxation, throttle or scorer: fields in order, defaults left out.

    Example:
        >>> label(build("vpnoise:sigma=unit,tau=1"))
        'lapsum+vpnoise:sigma=unit'
    """
    if type(thing).__name__ == "Operator" and hasattr(thing, "throttle"):
        return f"{label(thing.relaxation)}+{label(thing.throttle)}"
    if isinstance(thing, functools.partial):
        name, fields = label(thing.func), ",".join(f"{key}={text(value)}" for key, value in thing.keywords.items())
    else:
        code = defining(thing)
        name, fields = _name_of(code) or f"{code.__module__}:{code.__qualname__}", changed(thing)
    return f"{name}:{fields}" if fields else name


def _find(kind: str, name: str) -> Any:
    """Return the class or function of a name, and remember the name."""
    if match := PATH.fullmatch(name):
        code = from_file(Path(match["file"]), match["cls"])
    elif name in TABLES[kind] and kind != "operator":
        return built_in.load(kind, name)
    elif name.endswith(".py"):
        refuse_bare(Path(name), "selector" if kind == "selector" else "operator")
    elif name in packages.plugins(kind):
        code = packages.load(kind, name)
    else:
        raise UsageError(f"unknown {kind} {name!r}{_other_kind(kind, name)}; {nearest(name, names(kind))}")
    _typed[code] = name
    return code


def _other_kind(kind: str, name: str) -> str:
    """Return words for what else a name names, where it is no name of this kind; empty if nothing."""
    others = [other for other in TABLES if other != kind and name in names(other)]
    if not others:
        return ""
    known = f", which is {'an' if others[0] == 'operator' else 'a'} {others[0]}"
    if kind == "operator" and others[0] in ("relaxation", "throttle"):
        known += f": join it, {f'{name}+gather' if others[0] == 'relaxation' else f'lapsum+{name}'}"
    if others[0] == "selector":
        known += f" and has no gradient: gradprobe retention --rankings {name} measures it"
    return known


def _remedy(kind: str, name: str) -> str:
    """Name the maintainer of a broken part."""
    points = [] if name in TABLES[kind] else packages.plugins(kind).get(name, [])
    if not points:
        return f"see the built-in {kind}s"
    return f"it is {packages.origin_of(points[0])}: update or uninstall that"


def _name_of(code: Any) -> str | None:
    """Return the name by which a class or function can be asked for; None if it was only ever given as an object."""
    return built_in.name_of(code) or _typed.get(code)


def _given(thing: Any) -> Any:
    """Return the operator of an object, function or class, and remember objects for as long as the process runs."""
    operator = make(thing, {}, thing.__name__) if inspect.isclass(thing) else thing
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
    """Return an operator unchanged.

    Raises:
        UsageError: It is a relaxation or a throttle alone, or something else.
    """
    role = role_of(operator)
    if role == "none":
        raise UsageError(
            f"{name} cannot be called with (patches, scores, k, noise), as an operator is; the noise comes by that name"
        )
    if role == "selector":
        raise UsageError(f"{name} is a selector, called with (view, k), and no operator; see --select and --rankings")
    if role != "operator":
        other, joined = ("throttle", f"{name}+gather") if role == "relaxation" else ("relaxation", f"lapsum+{name}")
        python = "gp.Operator(relaxation, throttle)"
        raise UsageError(f"{name} is a {role} alone; join it with a {other}: {joined} (in Python {python})")
    return operator

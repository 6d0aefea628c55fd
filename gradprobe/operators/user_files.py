"""Python files that a user names, ``path/file.py:Class``: trusted, imported once, and listed.

A path runs the code of its file. A path that the user types, or a Python program passes, is trusted; one that was read
from a file (a pruner, a preset, a stored question) needs the user's word: `check_trusted`.
"""

import hashlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Collection
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.operators.third_party import role_of
from gradprobe.settings import RANKED

PATH = re.compile(r"^(?P<file>[^:]+\.py):(?P<cls>\w+)")  # followed by fields or nothing
SOURCE = "_gradprobe_source"  # attribute of a module: the bytes that were run, whatever the file holds by now
_MODULE = "_gradprobe_user_"  # before a hash of the path
_trusted: set[Path] = set()  # Python files that the user named in this process


def check_trusted(kind: str, spec: Any, read_from: Path | str, trust: Collection[Path | str] = ()) -> None:
    """Refuse a name read from a file if it is a path of Python code that the user has not named.

    Args:
        kind: Kind of the name: ``operator``, ``scorer``, ``plan``, ...; an operator's may have two parts, or be a plan
            of selectors after ``ranked:``, and a plan has a part for each stage.
        spec: Name and fields; anything but text passes.
        read_from: File, or another description of the origin, for the error.
        trust: Python files that may run, besides those that the user has named in this process.

    Raises:
        UsageError: The name is a path of another file.

    Example:
        >>> check_trusted("operator", "lapsum:tau=0.3+gather", "plan.toml")
        >>> check_trusted("scorer", "theirs.py:Scorer", "scorer.json", trust=["theirs.py"])
    """
    if not isinstance(spec, str):
        return
    for name in _parts(kind, spec):
        named = name.partition(":")[0].strip()
        if not named.endswith(".py"):
            continue
        file = Path(named)
        if file.resolve() not in {Path(each).resolve() for each in trust} | _trusted:
            raise UsageError(
                f"{read_from} names {name.strip()}, Python code that would run here; read it, then allow it with "
                f"--trust {shlex.quote(str(file))} (in Python: trust=[{str(file)!r}])"
            )
        _trusted.add(file.resolve())


def _parts(kind: str, spec: str) -> list[str]:
    if kind == "operator" and spec.startswith(RANKED):
        kind, spec = "plan", spec.removeprefix(RANKED)
    separator = {"operator": "+", "plan": ";"}.get(kind)
    return [spec] if separator is None else [name.strip() for name in spec.split(separator)]


def trusted() -> tuple[Path, ...]:
    """Return the Python files that the user has named in this process."""
    return tuple(sorted(_trusted))


def trust(files: Collection[Path | str]) -> None:
    """Trust Python files that the user has named in the process which this one works for."""
    _trusted.update(Path(file).resolve() for file in files)


def forget() -> None:
    """Forget the Python files that were trusted and imported, so that they are read again."""
    _trusted.clear()
    for name in [name for name in sys.modules if name.startswith(_MODULE)]:
        del sys.modules[name]


def all_named(spec: str) -> bool:
    """Return True if the user has named every Python file in an operator's name, relative to the present folder."""
    files = [name.partition(":")[0].strip() for name in spec.split("+", 1)]
    return all(Path(file).resolve() in _trusted for file in files if file.endswith(".py"))


def from_file(path: Path, attribute: str, called: bool = True) -> Any:
    """Import an object from a Python file.

    Args:
        path: Python file.
        attribute: Name in it.
        called: Refuse anything but a class or function.

    Raises:
        UsageError: There is no such file, or nothing of that name in it.
        GradprobeError: Its code raised.
    """
    if not path.is_file():
        raise UsageError(f"{path}:{attribute}: no such file; give the path of a Python file that defines {attribute}")
    module = _module_of(path)
    if not hasattr(module, attribute):
        defined = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        raise UsageError(f"{path} defines no {attribute!r}; {nearest(attribute, defined)}")
    thing = getattr(module, attribute)
    if called and not callable(thing):
        raise UsageError(f"{path}:{attribute} is {type(thing).__name__}; name a class or a function")
    return thing


def refuse_bare(path: Path, *kinds: str) -> NoReturn:
    """Refuse a Python file without the name of a class in it, and list the names that can be typed.

    Args:
        path: Python file.
        kinds: Kinds that are asked for, ``operator``, ``selector`` or both.

    Raises:
        UsageError: Always.
        GradprobeError: Its code raised.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name a Python file and a class in it: my_ops.py:MyOperator")
    if not (names := _names_in(_module_of(path), path, kinds)):
        calls = {"operator": "(patches, scores, k, noise)", "selector": "(view, k)"}
        wanted = " and no ".join(f"{kind}: a class or function called with {calls[kind]}" for kind in kinds)
        raise UsageError(f"{path} defines no {wanted}")
    raise UsageError(f"{path} is a file; name what is meant in it: {', '.join(names)}")


def _module_of(path: Path) -> ModuleType:
    """Import a Python file, once.

    Raises:
        GradprobeError: Its code raised.
    """
    _trusted.add(path.resolve())
    module_name = f"{_MODULE}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look up their module while they are defined
        try:
            source = path.read_bytes()
            setattr(module, SOURCE, source)
            code = compile(source, spec.origin or path, "exec", dont_inherit=True)  # never an older, cached compilation
            with redirect_stdout(sys.stderr):  # what it prints is no part of a command's JSON
                exec(code, vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise GradprobeError(f"{path} cannot be imported: {reason_of(error)}") from error
    return sys.modules[module_name]


def _names_in(module: ModuleType, path: Path | str, kinds: Collection[str]) -> list[str]:
    """List the operators, their parts and the selectors that a file defines, as they are typed, in the file's order."""
    templates = {"operator": {"operator": "{}", "relaxation": "{}+gather", "throttle": "lapsum+{}"}}
    templates["selector"] = {"selector": "{}"}
    roles = {role: template for kind in kinds for role, template in templates[kind].items()}
    names = []
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        if (inspect.isclass(value) or inspect.isfunction(value)) and (role := role_of(value)) in roles:
            names.append(roles[role].format(f"{path}:{name}"))
    return names


def reason_of(error: BaseException) -> str:
    """Return type and message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

"""Stubs of the lazy packages; ``python tests/stubs.py`` writes them, ``ruff format`` puts them in form.

A type checker that reads the sources sees all but the arguments that `gradprobe.settings.takes` gives a function on
import: their names, order and which of them have to be named. The stubs hold these as they are.
"""

import importlib
import inspect
import re
import textwrap
from pathlib import Path

PACKAGES = ("gradprobe", "gradprobe.vlm")
PATH = re.compile(r"\b((?:\w+\.)+)(\w+)")  # a type with its module


def stub_of(package):
    """Return the stub of a package: a line for each name, and whole signatures where they are made on import."""
    names = {public: f"{package}.{home}" for public, home in importlib.import_module(package)._HOME.items()}
    imports, functions = {f"from {home} import {name} as {name}" for name, home in names.items()}, []
    for name, home in names.items():
        value = getattr(importlib.import_module(home), name)
        if "__signature__" in vars(value):
            imports.remove(f"from {home} import {name} as {name}")
            text, needed = _function(name, value)
            functions.append(text)
            public = {f"from {names[each]} import {each} as {each}" for each in names}
            imports |= {line for line in needed if f"{line} as {line.split()[-1]}" not in public}
    own = ["from gradprobe import vlm as vlm"] if package == "gradprobe" else []
    about = [f"__all__ = {sorted(names)}"] + (["__version__: str"] if package == "gradprobe" else [])
    head = '"""Written by tests/stubs.py: the names of this package for type checkers and editors."""'
    return "\n".join([head, "", *sorted([*imports, *own]), "", *about, "", *functions])


def file_of(package):
    """Return the place of a package's stub."""
    return Path(importlib.import_module(package).__file__).with_suffix(".pyi")


def _function(name, function):
    """Return the stub of a function and the imports that it needs."""
    needed = set()

    def short(match):
        if match[1] != "builtins.":
            needed.add(f"from {match[1][:-1]} import {match[2]}")
        return match[2]

    parameters = []
    for each in inspect.signature(function).parameters.values():
        annotation = PATH.sub(short, inspect.formatannotation(each.annotation))
        default = "" if each.default is each.empty else f" = {each.default!r}"
        star = ["*"] if each.kind is each.KEYWORD_ONLY and "*" not in parameters else []
        parameters += [*star, f"{each.name}: {annotation}{default}"]
    result = PATH.sub(short, inspect.formatannotation(inspect.signature(function).return_annotation))
    doc = inspect.getdoc(function)
    arguments = [part for part in doc.split("\n\n") if part.startswith("Args:")]
    lines = "\n\n".join([doc.split("\n\n")[0], *arguments]).replace("\\", "\\\\")
    body = textwrap.indent(f'"""{lines}\n"""', "    ")
    return f"def {name}({', '.join(parameters)}) -> {result}:\n{body}\n", needed


if __name__ == "__main__":
    for each in PACKAGES:
        file_of(each).write_text(stub_of(each), encoding="utf-8")

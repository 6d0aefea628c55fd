"""Docstrings and signatures for the API reference, where they are not written in the form that griffe reads."""

import importlib
import inspect
import re
from typing import Any

import griffe

PATH = re.compile(r"\b(?:\w+\.)+(?=\w)")  # before the name of a type


class Docstrings(griffe.Extension):
    """Show examples as code, and the arguments that `gradprobe.settings.takes` gives a function on import."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Rename the section Example, which Google's style allows and griffe takes for prose."""
        if obj.docstring:
            obj.docstring.value = _plural(obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **others: Any) -> None:
        """Replace what is written in the file, where the last parameter stands for the fields of a dataclass."""
        if not any(str(decorator.value).startswith("takes(") for decorator in func.decorators):
            return
        made = getattr(importlib.import_module(func.module.path), func.name)
        written = {p.name: p.annotation for p in func.parameters}
        parameters = inspect.signature(made).parameters.values()
        func.parameters = griffe.Parameters(*(_parameter(p, written) for p in parameters))
        func.docstring = griffe.Docstring(_plural(inspect.getdoc(made) or ""), parent=func, parser="google")


def _plural(docstring: str) -> str:
    return docstring.replace("Example:\n", "Examples:\n")


def _parameter(parameter: inspect.Parameter, written: dict[str, Any]) -> griffe.Parameter:
    default = None if parameter.default is inspect.Parameter.empty else repr(parameter.default)
    annotation = written.get(parameter.name) or PATH.sub("", inspect.formatannotation(parameter.annotation))
    kind = griffe.ParameterKind[parameter.kind.name.lower()]
    return griffe.Parameter(parameter.name, annotation=annotation, kind=kind, default=default)

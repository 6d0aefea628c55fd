"""Hash of a third party's code and state: part of the key of a stored answer, which so becomes stale with the code.

Of code in a file the hash covers the file. Of a notebook's or a prompt's, where there is none, it covers what the code
does: its instructions, defaults, class attributes, and the functions, constants and tensors that it names.
"""

import functools
import hashlib
import inspect
import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from gradprobe.operators.third_party import defining, parts_of
from gradprobe.operators.user_files import SOURCE

_contents: "WeakKeyDictionary[Any, bytes]" = WeakKeyDictionary()  # of files, by what they define
CONSTANTS = (str, bytes, int, float, complex, tuple, frozenset, type(None))  # what can hold no counter and no log


def code_of(thing: Any) -> str | None:
    """Return a hash of a third party's code and state, None for built-in operators.

    It covers the code and everything the objects hold except the fields of dataclasses, which are part of the name.
    """
    files, rest = dict[str, bytes](), []
    for item in parts_of(thing):
        code = defining(item)
        if (code.__module__ or "").startswith("gradprobe."):
            continue
        file = _source_file(code)
        if file:
            files.setdefault(file, _content(code, file))
        if not file or "<" in code.__qualname__:  # no source, or a name that is not unique in its file
            rest.append(b"".join(_written(code, set())))
        rest.append(_state(item))
    blob = b"".join([files[file] for file in sorted(files)] + rest)
    return digest(blob) if files or rest else None


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits of an object's content, the same in every process if it can be pickled.

    Example:
        >>> digest({"tau": 1.0}) == digest({"tau": 1.0}) != digest({"tau": 2.0})
        True
    """
    return hashlib.sha256(content if isinstance(content, bytes) else _bytes(content)).hexdigest()[:16]


def _source_file(code: Any) -> str | None:
    """Return the file that defines a function or class; None at a prompt or in a notebook."""
    try:
        file = inspect.getsourcefile(code)
    except (TypeError, OSError):  # built in, or of a main program without a file
        return None
    return file if file and Path(file).is_file() else None


def _content(code: Any, file: str) -> bytes:
    """Return a file as it was when a function or class of it was defined or first seen: it may be edited in a run."""
    owner = getattr(code, "__func__", code)  # of a bound method, which is made anew whenever it is named
    if owner not in _contents:
        source = getattr(sys.modules.get(code.__module__), SOURCE, None)
        _contents[owner] = Path(file).read_bytes() if source is None else source
    return _contents[owner]


def _written(code: Any, seen: set[Any]) -> Iterator[bytes]:
    """Yield what the author of a function or class has written; of what it names, only what has no file of its own."""
    if code in seen:
        return
    seen.add(code)
    if not inspect.isclass(code):
        yield from _function(code, seen)
        return
    for cls in code.__mro__:
        for name, value in vars(cls).items():
            for part in _functions_in(value):
                yield from _function(part, seen)
            if _is_data(value) and not name.startswith("__"):
                yield name.encode() + _bytes(value)


def _functions_in(value: Any) -> list[Any]:
    """Return the functions of a class attribute: a method, also a static one, a property."""
    if isinstance(value, property):
        return [part for part in (value.fget, value.fset) if part is not None]
    inner = getattr(value, "__func__", None) or getattr(value, "func", None) or value
    return [inner] if isinstance(inner, FunctionType) else []


def _function(function: Any, seen: set[Any]) -> Iterator[bytes]:
    """Yield instructions, constants, defaults and closure of a function, and what it names in its notebook."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return
    yield from _instructions(code)
    if defaults := (function.__defaults__, function.__kwdefaults__):
        yield _bytes(defaults)
    yield _state(function)
    for name in sorted(_names(code) & function.__globals__.keys()):
        value = function.__globals__[name]
        if _is_data(value):
            yield name.encode() + _bytes(value)
        elif isinstance(value, FunctionType | type) and value not in seen and _source_file(value) is None:
            yield from _written(value, seen)


def _names(code: CodeType) -> set[str]:
    """Return the names that code and the functions within it look up."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _instructions(code: CodeType) -> Iterator[bytes]:
    yield code.co_code + repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        elif isinstance(constant, frozenset):  # of ``x in {"a", "b"}``; its order differs between processes
            yield repr(sorted(map(repr, constant))).encode()
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
        named = {f.name for f in fields(item)} if is_dataclass(item) else set()
        content = {name: value for name, value in _held(item).items() if name not in named}
    return _bytes(content) if content else b""


def _held(item: Any) -> Mapping[str, Any]:
    """Return the attributes of an object, also in slots, without those that it computes once from the others."""
    declared = [pair for cls in type(item).__mro__ for pair in vars(cls).items()]
    cached = {name for name, value in declared if isinstance(value, functools.cached_property)}
    slots = {n: getattr(item, n) for n, v in declared if inspect.ismemberdescriptor(v) and hasattr(item, n)}
    return slots | {name: value for name, value in getattr(item, "__dict__", {}).items() if name not in cached}


def _is_data(value: Any) -> bool:
    return isinstance(value, CONSTANTS) or _is_array(value)


def _is_array(value: Any) -> bool:
    """Return True for arrays of numpy and tensors of torch, neither of which is imported for it."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    return bool(numpy and isinstance(value, numpy.ndarray)) or bool(torch and isinstance(value, torch.Tensor))


def _bytes(content: Any) -> bytes:
    """Return content as bytes that are the same in every process."""
    file = io.BytesIO()
    try:
        _ByValue(file, protocol=4).dump(content)
    except Exception:  # not picklable; an address in repr makes the hash differ between processes, never stale
        return repr(content).encode()
    return file.getvalue()


class _ByValue(pickle.Pickler):
    """Pickler that writes a tensor by its values, where torch writes its address, and a lambda by its code."""

    def reducer_override(self, thing: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(thing, torch.Tensor):
            plain = thing.detach().cpu().contiguous().reshape(-1)
            return tuple, ((str(thing.dtype), tuple(thing.shape), plain.view(torch.uint8).numpy().tobytes()),)
        if isinstance(thing, FunctionType) and (_source_file(thing) is None or "<" in thing.__qualname__):
            return tuple, ((b"".join(_written(thing, set())),),)
        return NotImplemented

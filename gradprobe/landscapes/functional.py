"""Calls of a module with other parameters that leave the module as it was."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_lock, _inside = threading.Lock(), 0


def functional_call(
    module: nn.Module, tensors: Mapping[str, Tensor], args: Any = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Call a module with other parameters, as ``torch.func.functional_call`` does, and leave it bit for bit as it was.

    Afterwards the module holds the same Parameter and buffer objects, also after an exception and where one submodule
    has two names (a shared activation, a shared block). A buffer that ``tensors`` does not name is read from a copy, so
    the running statistics of a batch norm in training mode stay as they are; so do the entries of ``tensors``.

    Args:
        module: whose ``forward`` is called.
        tensors: parameters and buffers by name; what is not named is the module's own.
        args: positional arguments, a tuple or a single one.
        kwargs: keyword arguments.

    Returns:
        The output of the module.

    Example:
        >>> shared = nn.PReLU()
        >>> model = nn.Sequential(shared, nn.Linear(1, 1), shared)
        >>> moved = functional_call(model, {"0.weight": torch.ones(1)}, torch.ones(1, 1))
        >>> model[0].weight is model[2].weight, type(shared.weight).__name__
        (True, 'Parameter')
    """
    with _kept(module):
        named = {**_copied_buffers(module, tensors), **tensors}
        return torch.func.functional_call(module, named, args, None if kwargs is None else dict(kwargs))


@contextmanager
def safe_functional_calls() -> Iterator[None]:
    """Make ``torch.func.functional_call`` itself leave modules as they were, for functions that call it inside.

    A user's own loss holds its model where nobody else sees it; here is the one place where torch hands it over.
    """
    global _inside
    stateless = torch.nn.utils.stateless
    with _lock:
        _inside += 1
        if _inside == 1 and hasattr(stateless, "_functional_call"):
            stateless._functional_call = _guarded(stateless._functional_call)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and hasattr(stateless._functional_call, "__wrapped__"):
                stateless._functional_call = stateless._functional_call.__wrapped__


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(module: nn.Module, tensors: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        with _kept(module):
            copies = {} if kwargs.get("strict") else _copied_buffers(module, tensors)
            return call(module, {**copies, **tensors}, *args, **kwargs)

    guarded.__wrapped__ = call  # type: ignore[attr-defined]
    return guarded


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Put the tensors that the submodules hold back in their places.

    torch (pytorch#164759) notes what it replaces name by name. Under the second name of a submodule it finds, and
    notes, the tensor that it has just put there under the first; restored in the same order, that one stays.
    """
    held: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (place, {name: value for name, value in place.items() if value is None or isinstance(value, Tensor)})
        for each in module.modules()
        for place in (each._parameters, each._buffers, each.__dict__)  # the last: what weight norm computes
        if isinstance(place, dict)  # not of a scripted module, which torch refuses
    ]
    try:
        yield
    finally:
        for place, tensors in held:
            place.update(tensors)


def _copied_buffers(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the buffers that are not given, under any of their names."""
    given = {id(value) for name, value in module.named_buffers(remove_duplicate=False) if name in tensors}
    return {name: value.clone() for name, value in module.named_buffers() if id(value) not in given}

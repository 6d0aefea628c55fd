"""Calls of a module with other parameters, which leave the module unchanged."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
_lock, _inside = threading.Lock(), 0


def functional_call(
    module: nn.Module, tensors: Mapping[str, Tensor], args: Any = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Call a module with other parameters, as ``torch.func.functional_call`` does, and leave it unchanged bit for bit.

    Afterwards the module holds the same Parameter and buffer objects, also after an exception and where a submodule has
    two names (a shared activation, a shared block). Buffers that ``tensors`` does not name are read from copies, so the
    running statistics of a batch norm in training mode do not change; neither do the entries of ``tensors``.

    Args:
        module: Module to call.
        tensors: Parameters and buffers by name; for all others the module's own are used.
        args: Positional arguments, a tuple or a single one.
        kwargs: Keyword arguments.

    Returns:
        Output of the module.

    Example:
        >>> shared = nn.PReLU()
        >>> model = nn.Sequential(shared, nn.Linear(1, 1), shared)
        >>> moved = functional_call(model, {"0.weight": torch.ones(1)}, torch.ones(1, 1))
        >>> model[0].weight is model[2].weight, type(shared.weight).__name__
        (True, 'Parameter')
    """
    with _restored(module):
        tensors = {**_copied_buffers(module, tensors), **tensors}
        return torch.func.functional_call(module, tensors, args, None if kwargs is None else dict(kwargs))


def copied(module: Network) -> Network:
    """Return a deep copy of a module, also of one that holds a tensor which it has computed.

    torch copies no tensor with a graph, such as the weight that weight normalisation computes in each call; the copy
    holds its value, and computes it anew when it is called.

    Example:
        >>> normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))
        >>> torch.equal(copied(normed).weight, normed.weight)
        True
    """
    held = [x for part in module.modules() for x in (*vars(part).values(), *part._buffers.values())]
    computed = [x for x in held if isinstance(x, Tensor) and not x.is_leaf]
    return copy.deepcopy(module, {id(x): x.detach().clone() for x in computed})


@contextmanager
def safe_functional_calls() -> Iterator[None]:
    """Make ``torch.func.functional_call`` itself leave modules unchanged, for losses that call it.

    The model inside a user's loss is out of reach; torch's own function is the one place where it passes by.
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
        with _restored(module):
            copies = {} if kwargs.get("strict") else _copied_buffers(module, tensors)
            return call(module, {**copies, **tensors}, *args, **kwargs)

    guarded.__wrapped__ = call  # type: ignore[attr-defined]
    return guarded


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Put the tensors of all submodules back in their places on exit.

    torch (pytorch#164759) records the tensors that it replaces name by name. Under the second name of a submodule it
    records the tensor that it has just put there under the first; restored in the same order, that one stays.
    """
    places: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (place, {name: value for name, value in place.items() if value is None or isinstance(value, Tensor)})
        for each in module.modules()
        for place in (each._parameters, each._buffers, each.__dict__)  # the last: weights that weight norm computes
        if isinstance(place, dict)  # false in a scripted module, which torch refuses
    ]
    try:
        yield
    finally:
        for place, tensors in places:
            place.update(tensors)


def _copied_buffers(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the buffers that are not given under any of their names."""
    given = {id(value) for name, value in module.named_buffers(remove_duplicate=False) if name in tensors}
    return {name: value.clone() for name, value in module.named_buffers() if id(value) not in given}

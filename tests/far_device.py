"""A device that a CPU can stand in for, which counts how often the host waits for it.

A far tensor holds a CPU tensor and reports the device ``meta``, the only one beside the CPU that torch's autograd
serves without a driver. Its operations run at once on the tensor inside, so that numbers are right; what would make the
host wait for a GPU's queue is counted: reading a number, an operation whose result has a size that depends on data, and
a copy between the devices that is not asked to be asynchronous.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
READS = {  # operations whose outcome the host needs before it can go on
    aten._local_scalar_dense: "item", aten.is_nonzero: "item", aten.equal: "equal", aten.nonzero: "nonzero",
    aten.masked_select: "nonzero", aten._unique2: "nonzero", aten.unique_dim: "nonzero",
    aten.unique_consecutive: "nonzero", aten.repeat_interleave: "nonzero", aten.bincount: "nonzero",
    aten.argwhere: "nonzero",
}  # fmt: skip
MOVES = (aten._to_copy, aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class Far(Tensor):
    """Tensor on the device that is far away."""

    is_meta = False  # what asks whether a tensor has values should be told that it has

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        far = Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=DEVICE, requires_grad=near.requires_grad,
        )  # fmt: skip
        far.near = near.detach()
        return far

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Far({self.near})"

    def numpy(self, *, force: bool = False):
        if not force:
            raise TypeError("can't convert a far tensor to numpy; use .cpu() first")
        return self.cpu().numpy()

    def tolist(self):
        return self.cpu().tolist()


@dataclass
class Waits:
    """Number of times that the host waited, by reason and by the line of gradprobe that made it wait."""

    counts: Counter = field(default_factory=Counter)
    lines: Counter = field(default_factory=Counter)

    def add(self, reason: str) -> None:
        """Count one wait."""
        self.counts[reason] += 1
        self.lines[f"{_line()} {reason}"] += 1

    def __len__(self) -> int:
        return self.counts.total()


_waits: list[Waits] = []


class _Mode(TorchDispatchMode):
    """Make tensors far where a call without far arguments asks for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if Far in types or _device(kwargs) == DEVICE or (func.overloadpacket is aten.to and DEVICE in args):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def far_device() -> Iterator[Waits]:
    """Serve the device ``meta`` inside, in threads of pools too, and count the waits for it."""
    waits, submit = Waits(), ThreadPoolExecutor.submit

    def submit_inside(pool, function, /, *args, **kwargs):
        def inside():
            with _Mode():
                return function(*args, **kwargs)

        return submit(pool, inside)

    ThreadPoolExecutor.submit = submit_inside
    made = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
    for name, make in made.items():  # torch makes a tensor of numbers without telling the mode
        setattr(torch, name, partial(_of_numbers, make))
    _waits.append(waits)
    try:
        with _Mode():
            yield waits
    finally:
        _waits.pop()
        for name, make in made.items():
            setattr(torch, name, make)
        ThreadPoolExecutor.submit = submit


def far(value: Tensor) -> Tensor:
    """Return a tensor on the device, as loading puts it there: without a wait."""
    return value if isinstance(value, Far) else Far(value)


def far_module(module: torch.nn.Module) -> torch.nn.Module:
    """Move a module's parameters and buffers to the device, in place."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(far(parameter.detach()), parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = far(buffer)
    return module


def _of_numbers(make, data, *, device=None, **options):
    if isinstance(data, Far) or device is None or torch.device(device) != DEVICE:
        return make(data, device=device, **options)
    _waits[-1].add("from the host")
    return far(make(data, **options))


def _device(kwargs) -> torch.device | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device)


def _run(func, args, kwargs):
    """Run an operation on the tensors inside; results are far unless it copies to the CPU."""
    packet = func.overloadpacket
    flat, _ = tree_flatten((args, kwargs))
    asked = _device(kwargs)
    if _waits:
        _count(packet, args, kwargs, asked)
    is_far = any(isinstance(x, Far) for x in flat)
    near = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Far) and x.ndim]
    if is_far and near and packet not in MOVES:
        raise RuntimeError(f"{func} was given tensors on two devices")
    near_args, near_kwargs = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, dict(kwargs)))
    if asked is not None:
        near_kwargs["device"] = torch.device("cpu")
    out = func(*near_args, **near_kwargs)
    if _written(func._schema):
        return kwargs.get("out", args[0]) if args else kwargs["out"]
    if (asked is not None and asked.type == "cpu") or not (is_far or asked == DEVICE):
        return out
    return tree_map(lambda x: Far(x) if isinstance(x, Tensor) else x, out)


def _written(schema) -> bool:
    """Tell whether an operation writes into what it was given, and returns that."""
    return any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)


def _count(packet, args, kwargs, asked) -> None:
    reason = READS.get(packet)
    if packet is aten._to_copy:
        here, there = isinstance(args[0], Far), asked is None or asked == DEVICE
        if asked is not None and here != there and not kwargs.get("non_blocking"):
            reason = "to the host" if here else "from the host"
    elif packet is aten.copy_:
        ours, theirs = isinstance(args[0], Far), isinstance(args[1], Far)
        asynchronous = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        if ours != theirs and not asynchronous:
            reason = "from the host" if ours else "to the host"
    elif packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        if any(isinstance(i, Far) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            reason = "nonzero"
        elif any(isinstance(i, Tensor) and not isinstance(i, Far) for i in args[1]):
            reason = "from the host"
    if reason:
        _waits[-1].add(reason)


def _line() -> str:
    """Return the innermost line of gradprobe on the stack."""
    import sys

    frame = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if "/gradprobe/" in path and "/tests/" not in path:
            return f"{path.rpartition('/gradprobe/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"

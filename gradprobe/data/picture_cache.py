"""Pictures ready for a model, kept in a bounded cache, on the model's own device where that has room."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from threading import Lock
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gradprobe.devices import free_memory

HOST = torch.device("cpu")
LIMIT = 2 << 30  # bytes of a cache in host memory
SHARE = 0.25  # of a GPU's memory: what is free when its cache is first used; most of it is for micro-batches

Value = TypeVar("Value")
Picture = tuple[Tensor, ...]  # pixels, and whatever else belongs to it


class BoundedCache(Generic[Value]):
    """Values by key, at most so many bytes of them; the oldest are dropped first."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, keys: Iterable[Hashable]) -> dict[Hashable, Value]:
        """Return the values of those keys that are cached."""
        with self._lock:
            return {key: self._values[key][0] for key in keys if key in self._values}

    def put(self, key: Hashable, value: Value, size: int, limit: int | None = None) -> None:
        """Cache a value, of ``size`` bytes, within the limit or a lower one."""
        with self._lock:
            if key not in self._values:
                self._values[key] = value, size
                self.size += size
            while self.size > min(self.limit, self.limit if limit is None else limit):
                _, (_, freed) = self._values.popitem(last=False)
                self.size -= freed


@cache
def room_on(device: torch.device) -> int:
    """Return the bytes that a cache may take on a device; on a GPU a share of what is free at the first call."""
    return int(SHARE * free_memory(device)) if device.type == "cuda" else LIMIT


def home_of(device: torch.device) -> torch.device:
    """Return the device on which pictures for a device are kept: a GPU itself if it has more room than the host."""
    return device if device.type == "cuda" and room_on(device) > LIMIT else HOST


@cache
def cache_on(home: torch.device) -> BoundedCache[Picture]:
    """Return the cache of pictures on a device."""
    return BoundedCache(room_on(home))


def prepared(
    keys: Sequence[Hashable | None], make: Callable[[list[int]], Iterable[Picture | None]], device: torch.device
) -> list[Picture | None]:
    """Return pictures by key: those in the cache, and others made and cached.

    Args:
        keys: Key of each picture, which decides every bit of it; None: it is not cached.
        make: Function from positions in ``keys`` to their pictures, on the host; None for one that cannot be made.
        device: Device of the model.

    Returns:
        Pictures on the home of the device; None where there is none.
    """
    home = home_of(device)
    kept = cache_on(home)
    cached = kept.get(key for key in keys if key is not None)
    missing = [i for i, key in enumerate(keys) if key not in cached]
    made = {i: picture for i, picture in zip(missing, make(missing), strict=True) if picture is not None}
    if made and home != HOST:  # all in one copy
        parts = (onto(torch.stack(part), home) for part in zip(*made.values(), strict=True))
        made = dict(zip(made, zip(*parts, strict=True), strict=True))
    for i, picture in made.items():
        if keys[i] is not None:
            own = tuple(x.clone() if x.untyped_storage().nbytes() > x.nbytes else x for x in picture)
            kept.put(keys[i], own, sum(x.nbytes for x in own))
    return [made.get(i, cached.get(key)) for i, key in enumerate(keys)]


def onto(values: Tensor, device: torch.device) -> Tensor:
    """Copy values to a device; from the host to a GPU without waiting for it."""
    if values.device.type != "cpu" or device.type in ("cpu", "mps"):
        return values.to(device)
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)

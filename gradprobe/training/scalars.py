"""Numbers that a device computes in a loop, brought to the host without waiting for it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Scalars:
    """List of small tensors as they become known on the host; on a CPU each is known at once.

    Example:
        >>> losses = Scalars()
        >>> losses.append(torch.tensor(2.5))
        >>> len(losses), losses.known(), losses.all()
        (1, [2.5], [2.5])
    """

    _values: list[Any] = field(default_factory=list)
    _coming: deque[tuple[Tensor, Any]] = field(default_factory=deque)  # with the event behind its copy, if there is one

    def __len__(self) -> int:
        return len(self._values) + len(self._coming)

    def append(self, value: Tensor) -> None:
        """Add a tensor, whose numbers are on their way from here on."""
        value = value.detach()
        if value.device.type == "cpu":
            self._values.append(value.tolist())
        elif value.device.type == "cuda":
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            host.copy_(value, non_blocking=True)
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(value.device))
            self._coming.append((host, event))
        else:
            self._coming.append((value, None))

    def known(self) -> list[Any]:
        """Return the numbers, from the first on, that the host knows by now; nothing waits."""
        while self._coming and self._coming[0][1] is not None and self._coming[0][1].query():
            self._values.append(self._coming.popleft()[0].tolist())
        return self._values

    def all(self) -> list[Any]:
        """Return the numbers of all tensors; the host waits for those on their way."""
        coming = [value for value, _ in self._coming]
        if coming:
            if (event := self._coming[-1][1]) is not None:
                event.synchronize()
            self._values += torch.stack(coming).tolist()
            self._coming.clear()
        return self._values

    def load(self, values: list[Any]) -> None:
        """Replace all by known numbers."""
        self._coming.clear()
        self._values = list(values)

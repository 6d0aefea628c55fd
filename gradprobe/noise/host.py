"""Numbers of numpy's SFC64, seeded with a hash of each image's key: drawn on the CPU and sent to the device."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Key = tuple[int, int]  # seed and id of an image
SAMPLERS: dict[str, Callable[..., np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n, dtype=np.float32),
    "uniform": lambda rng, n: (rng.integers(0, 1 << 23, n) + 0.5) / (1 << 23),
    "gumbel": lambda rng, n: rng.gumbel(size=n),
    "gamma": lambda rng, n, concentration: rng.standard_gamma(concentration, n),
}


def numbers(
    kind: str, keys: Sequence[Key], counter: tuple[int, int], count: int, device: torch.device, *parameters: float
) -> Tensor:
    """Return random numbers ``(B, count)`` on a device, float32 or float64.

    Args:
        kind: One of `SAMPLERS`.
        keys: Seed and id of each image.
        counter: Draw and stream.
        count: Numbers for each image.
        device: Where they go.
        parameters: Of the distribution.
    """
    sample = SAMPLERS[kind]
    rows = [sample(np.random.Generator(np.random.SFC64([*key, *counter])), count, *parameters) for key in keys]
    return torch.from_numpy(np.stack(rows)).to(device, non_blocking=True)

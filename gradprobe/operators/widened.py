"""Relaxations compute in float32 at least: rounded to half precision, many perturbed scores would be equal."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """Return a tensor of half precision in float32, and any other unchanged.

    Example:
        >>> widened(torch.zeros(2, dtype=torch.bfloat16)).dtype, widened(torch.zeros(2, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))

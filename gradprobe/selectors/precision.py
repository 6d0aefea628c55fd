"""Projectors in a wider type than their own: in half precision, small differences are lost in rounding."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Project = Callable[[Tensor], Tensor]


def in_precision(projector: Project, dtype: torch.dtype) -> Project | None:
    """Return a projector that computes in a type; None of one that does so as it is, or cannot.

    Args:
        projector: A module, or a callable with a method ``widened`` that answers the same question.
        dtype: Type of the tokens that it will be given.
    """
    own: Any = getattr(projector, "widened", None)
    if own is not None:
        return own(dtype)
    narrow = isinstance(projector, nn.Module) and any(
        parameter.is_floating_point() and torch.promote_types(parameter.dtype, dtype) != parameter.dtype
        for parameter in projector.parameters()
    )
    return widened(projector, dtype) if narrow and isinstance(projector, nn.Module) else None


def widened(module: nn.Module, dtype: torch.dtype) -> Project:
    """Return the function of a module, computed with a copy of its weights in another type.

    Example:
        >>> half = nn.Linear(2, 1).to(torch.bfloat16)
        >>> widened(half, torch.float32)(torch.ones(1, 2)).dtype, half.weight.dtype
        (torch.float32, torch.bfloat16)
    """
    tensors = chain(module.named_parameters(), module.named_buffers())
    copies = {name: value.detach().to(dtype) if value.is_floating_point() else value for name, value in tensors}
    return lambda tokens: functional_call(module, copies, (tokens,))

"""Refusal of NaN where tokens are ranked: in descending order torch puts NaN before every number."""

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # there is no public way to unwrap

from gradprobe.deferred import refuse
from gradprobe.errors import GradprobeError


def refuse_nan(values: Tensor) -> Tensor:
    """Return the values unchanged, or raise if some are NaN; on a GPU later inside `gradprobe.deferred.deferring`.

    Tensors of ``torch.func`` are unwrapped first, and compiled code sees one opaque operation, so that the branch on
    data breaks neither.

    Args:
        values: Scores or weights, ``(..., N)``.

    Raises:
        GradprobeError: Some are NaN.

    Example:
        >>> refuse_nan(torch.tensor([[1.0, 2.0], [torch.nan, 3.0]]))
        Traceback (most recent call last):
        gradprobe.errors.GradprobeError: 1 of 4 scores is NaN (image 2 of 2 of the batch), and NaN has no rank; ...
    """
    if torch.compiler.is_compiling():
        return _checked(values)
    raw = values
    while functorch.is_functorch_wrapped_tensor(raw):
        raw = functorch.get_unwrapped(raw)
    with torch._C._DisableFuncTorch():  # else torch 2.6 wraps the results again
        refuse(raw.isnan(), _error)
    return values


def _error(bad: Tensor) -> GradprobeError:
    count, where = int(bad.sum()), ""
    if bad.ndim == 2:
        images = [str(i + 1) for i, row in enumerate(bad.any(1).tolist()) if row]
        shown = ", ".join(images[:8]) + (f" and {len(images) - 8} more" if len(images) > 8 else "")
        where = f" (image{'s' * (len(images) > 1)} {shown} of {len(bad)} of the batch)"
    return GradprobeError(
        f"{count} of {bad.numel()} scores {'is' if count == 1 else 'are'} NaN{where}, and NaN has no rank; look at the "
        "scorer's weights and inputs, train it at a lower learning rate, or run in float32 or float64"
    )


@torch.library.custom_op("gradprobe::refuse_nan", mutates_args=())
def _checked(values: Tensor) -> Tensor:
    refuse(values.isnan(), _error)
    return values.clone()


@_checked.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)

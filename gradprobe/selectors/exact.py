"""Exact sensitivity of a projector of two linear layers: the Frobenius norm of its Jacobian at each token."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradprobe.view import Unavailable

_pairs: WeakKeyDictionary[nn.Module, tuple[Any, Tensor]] = WeakKeyDictionary()


def jacobian_norm(projector: Callable[[Tensor], Tensor] | None, tokens: Tensor) -> Tensor:
    """Return ``|dP(x) / dx|_F`` at each token of a projector ``P(x) = W2 act(W1 x + b1) + b2``.

    ``|J|_F^2 = a^T (W1 W1^T * W2^T W2) a`` with ``a = act'(W1 x + b1)`` and ``*`` element by element. The matrix in the
    middle belongs to the projector: it is computed once and held, ``h x h``, as long as the projector lives. Half
    precision is promoted to float32.

    Args:
        projector: A callable with an attribute ``layers``: a linear layer, an elementwise activation, a linear layer.
        tokens: ``(..., D)``.

    Returns:
        Norms ``(...)``.

    Raises:
        Unavailable: The projector has no such layers.

    Example:
        >>> from types import SimpleNamespace
        >>> first, second = nn.Linear(3, 4), nn.Linear(4, 2)
        >>> norm = jacobian_norm(SimpleNamespace(layers=(first, nn.Identity(), second)), torch.zeros(3))
        >>> torch.allclose(norm, (second.weight @ first.weight).norm())
        True
    """
    layers = getattr(projector, "layers", None)
    if layers is None:
        raise Unavailable(
            "zoo:exact needs a projector of a linear layer, an activation and a linear layer, as LLaVA and LLaVA-NeXT "
            "have one; type zoo, which takes finite differences of any projector"
        )
    first, act, second = layers
    pairs = _pairs_of(first, second)
    bias = None if first.bias is None else first.bias.to(pairs)
    inner = F.linear(tokens.to(pairs), first.weight.to(pairs), bias)
    curve = getattr(act, "forward", act)  # without hooks: a counter of FLOPs cannot follow a gradient of its module
    with torch.enable_grad():
        leaf = inner.detach().requires_grad_()
        (slope,) = torch.autograd.grad(curve(leaf).sum(), leaf)
    return ((slope @ pairs) * slope).sum(-1).clamp(min=0).sqrt().detach()


def _pairs_of(first: nn.Linear, second: nn.Linear) -> Tensor:
    """Return ``W1 W1^T * W2^T W2``, computed anew where the weights changed."""
    weights = (first.weight, second.weight)
    state = tuple((w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype, w.device) for w in weights)
    if first not in _pairs or _pairs[first][0] != state:
        dtype = torch.promote_types(first.weight.dtype, torch.float32)
        w1, w2 = (w.detach().to(dtype) for w in weights)
        _pairs[first] = state, (w1 @ w1.mT) * (w2.mT @ w2)
    return _pairs[first][1]

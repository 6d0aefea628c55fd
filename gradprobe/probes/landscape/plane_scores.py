"""Scores of a few images at ``theta + a d1 + b d2``, for many cells (a, b)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.landscapes.directions import Params, along
from gradprobe.landscapes.functional import copied, functional_call
from gradprobe.models.scorers import TwoLayer

BLOCK = 64  # tokens of a hidden layer at a time, which fit the cache of a core

Row = Callable[[float], Tensor]


class ScoreField:
    """Scores of one batch as a function of the cell: ``row(a)(b)`` at ``theta + a d1 + b d2``.

    At the origin they are the scorer's own, bit for bit. An instance has its own copy of the scorer, so that several
    threads can each have one.
    """

    def __init__(self, scorer: nn.Module, params: Params, d1: Params, d2: Params):
        self._scorer, self._params, self._d1, self._d2 = copied(scorer), params, d1, d2
        self._patches: Tensor | None = None
        self._hidden: list[Tensor] = []

    def at(self, patches: Tensor) -> "ScoreField":
        """Return the same field for another batch's patches ``(B, N, D)``."""
        if patches is not self._patches:
            self._patches = patches
            self._hidden = self._products(patches) if isinstance(self._scorer, TwoLayer) else []
        return self

    def row(self, a: float) -> Row:
        """Return the function ``b -> scores (B, N)`` along d2 for this a."""
        assert self._patches is not None
        patches = self._patches
        start = along(self._params, [self._d1], [a])
        if not self._hidden:
            return lambda b: functional_call(self._scorer, along(start, [self._d2], [b]), (patches,))
        h0, h1, h2 = self._hidden
        hidden = torch.add(h0, h1, alpha=a) if a else h0
        whole = hidden if len(patches) * patches.shape[1] <= BLOCK or hidden.is_cuda else None
        out = {name: p for name, p in start.items() if name.startswith("out.")}
        moves = {name: d for name, d in self._d2.items() if name in out}

        def scores(b: float) -> Tensor:
            if a == 0 == b:
                return functional_call(self._scorer, start, (patches,))
            end = along(out, [moves], [b]) if moves else out
            weight, bias = end["out.weight"][0], end["out.bias"]
            if whole is not None:
                return (F.gelu(torch.add(hidden, h2, alpha=b)) @ weight + bias).reshape(patches.shape[:2])
            products, piece = hidden.new_empty(len(hidden)), hidden.new_empty(BLOCK, hidden.shape[1])
            for i in range(0, len(hidden), BLOCK):
                part = slice(i, min(i + BLOCK, len(hidden)))
                moved = torch.add(hidden[part], h2[part], alpha=b, out=piece[: part.stop - i])
                torch.mv(F.gelu(moved), weight, out=products[part])
            return (products + bias).reshape(patches.shape[:2])

        return scores

    def _products(self, patches: Tensor) -> list[Tensor]:
        """Return h0, h1 and h2 of the hidden layer, which is affine in the cell: ``h0 + a h1 + b h2``."""
        inputs = F.layer_norm(patches, patches.shape[-1:]).flatten(0, 1)
        still = torch.zeros_like(self._params["hidden.weight"])

        def product(point: Params) -> Tensor:
            bias = point.get("hidden.bias")
            weight = point.get("hidden.weight", still).to(inputs.dtype)  # directions may be kept in a wider type
            return F.linear(inputs, weight, bias if bias is None else bias.to(inputs.dtype))

        return [product(point) for point in (self._params, self._d1, self._d2)]

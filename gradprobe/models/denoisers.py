"""Denoisers, which realign throttled tokens with what the frozen model expects; for training only.

A denoiser maps tokens ``(B, M, D)`` to tokens ``(B, M, D)``. Its last layers are initialised to zero, so that it begins
as the identity; the paper does not say how its own is initialised.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.errors import UsageError
from gradprobe.models.scorers import heads_of, seeded


@dataclass(frozen=True)
class Token:
    """Transformer block in which a token attends to itself alone: ``y = x + W_o W_v norm(x)``, then its MLP.

    ``D_phi(X) = Block(X; mask = I_N)``. A softmax over one key is 1, so queries and keys are left out; no token copies
    from another: ``d y_i / d x_j = 0`` for i other than j.

    Source: DiffPrune, section 4.4.

    Attributes:
        width: Width of the block; 0 means D, otherwise a linear layer leads in and another out.
        hidden: Hidden width of the MLP; 0 means four times the block's.

    Example:
        >>> import torch
        >>> network = Token().make(dim=8, seed=0)
        >>> tokens = torch.randn(2, 5, 8)
        >>> torch.equal(network(tokens), tokens)  # it begins as the identity
        True
    """

    width: int = 0
    hidden: int = 0

    def __post_init__(self) -> None:
        _check("token", self.width, self.hidden)

    def make(self, dim: int, seed: int) -> nn.Module:
        """Return a new denoiser for tokens of ``dim`` channels; the global RNG stays as it is."""
        return seeded(lambda: Block(dim, self.width or dim, self.hidden, heads=0), seed)


@dataclass(frozen=True)
class Global:
    """Ordinary Transformer block, in which every token attends to all; the ablation of Table 5.

    Attributes:
        width: Width of the block; 0 means D.
        hidden: Hidden width of the MLP; 0 means four times the block's.
        heads: Attention heads; 0 means one for every 64 channels.
    """

    width: int = 0
    hidden: int = 0
    heads: int = 0

    def __post_init__(self) -> None:
        _check("global", self.width, self.hidden, self.heads)

    def make(self, dim: int, seed: int) -> nn.Module:
        """Return a new denoiser for tokens of ``dim`` channels; the global RNG stays as it is."""
        width = self.width or dim
        heads = heads_of("global", width, self.heads)
        return seeded(lambda: Block(dim, width, self.hidden, heads), seed)


@dataclass(frozen=True)
class Nothing:
    """No denoiser: the frozen model reads throttled tokens as they are."""

    def make(self, dim: int, seed: int) -> None:
        """Return None."""


class Block(nn.Module):
    """Pre-norm Transformer block between two optional linear layers; without heads a token sees itself alone."""

    def __init__(self, dim: int, width: int, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look = nn.Linear(width, 2 * width) if heads else None
        self.value, self.mixed = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden or 4 * width), nn.Linear(hidden or 4 * width, width)
        self.outward = nn.Linear(width, dim) if width != dim else None
        for last in (self.mixed, self.down) if self.outward is None else (self.outward,):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, M, D)`` -> tokens ``(B, M, D)``."""
        x = self.inward(tokens)
        x = x + self.mixed(self._attended(self.norm1(x)))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return x if self.outward is None else tokens + self.outward(x)

    def _attended(self, x: Tensor) -> Tensor:
        value = self.value(x)
        if self.look is None:
            return value
        split = [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (*self.look(x).chunk(2, -1), value)]
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)


def _check(name: str, *numbers: int) -> None:
    if min(numbers) < 0:
        raise UsageError(f"{name}: widths and heads are positive, or 0 for their defaults")

"""Scorers: the small networks whose gradients the probes measure.

A scorer maps patches ``(B, N, D)`` to scores ``(B, N)``. Both kinds have 24 D^2 parameters by default, at D = 768 the
paper's "roughly 14M"; it does not say which kind it means. Patches are first normalised per token without parameters,
so that scores start at a comparable scale in every backbone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.errors import UsageError

MOST = 4_000_000_000  # parameters of a scorer or denoiser: 16 GB in float32


@dataclass(frozen=True)
class MLP:
    """Two-layer scorer, token by token: ``s_i = w2 . gelu(W1 norm(x_i) + b1) + b2``.

    Source: DiffPrune, section 3.2 ("a two-layer MLP scorer with roughly 14M parameters").

    Attributes:
        width: Hidden width; 0 means 24 D (14.2M parameters at D = 768).
    """

    width: int = 0

    def __post_init__(self) -> None:
        if self.width < 0:
            raise UsageError(f"mlp:width={self.width}: give a positive width, or 0 for 24 D")

    def make(self, dim: int, seed: int) -> nn.Module:
        """Return a new scorer for tokens of ``dim`` channels; the global RNG stays as it is."""
        return seeded(lambda: TwoLayer(dim, self.width or 24 * dim), seed)


@dataclass(frozen=True)
class Transformer:
    """Transformer blocks and a linear head, so that a score depends on the other tokens.

    Source: DiffPrune, section 4.2 and appendix A (two blocks, a linear projection to a scalar logit).

    Attributes:
        depth: Number of blocks.
        width: Width of the blocks; 0 means D (14.2M parameters at D = 768).
        heads: Attention heads; 0 means one for every 64 channels.
    """

    depth: int = 2
    width: int = 0
    heads: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 1000 or self.width < 0 or self.heads < 0:
            raise UsageError("transformer: depth must be 1 to 1000, width and heads positive or 0 for their defaults")

    def make(self, dim: int, seed: int) -> nn.Module:
        """Return a new scorer for tokens of ``dim`` channels; the global RNG stays as it is."""
        width = self.width or dim
        heads = heads_of("transformer", width, self.heads)
        return seeded(lambda: _Transformer(dim, self.depth, width, heads), seed)


class TwoLayer(nn.Module):
    """Network of `MLP`: affine, gelu, affine, for each token alone."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.hidden = nn.Linear(dim, width)
        self.out = nn.Linear(width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Scores ``(B, N)``."""
        return self.out(F.gelu(self.hidden(F.layer_norm(patches, patches.shape[-1:])))).squeeze(-1)


class _Transformer(nn.Module):
    def __init__(self, dim: int, depth: int, width: int, heads: int):
        super().__init__()
        from timm.models.vision_transformer import Block

        self.inward = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        hidden = self.inward(F.layer_norm(patches, patches.shape[-1:]))
        return self.out(self.norm(self.blocks(hidden))).squeeze(-1)


def heads_of(name: str, width: int, heads: int) -> int:
    """Return the number of attention heads, by default one for every 64 channels.

    Raises:
        UsageError: The width cannot be split into that many heads.
    """
    heads = heads or max(1, width // 64)
    if width % heads:
        raise UsageError(f"{name}: width {width} cannot be split into {heads} heads; give heads that divide it")
    return heads


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network with seeded initial values; the global RNG stays as it is.

    Args:
        make: Function that builds the network.
        seed: Seed of its values.

    Raises:
        UsageError: The network is too large to be made; checked before memory is allocated.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            parameters = sum(p.numel() for p in make().parameters())
    except (RuntimeError, TypeError, OverflowError):  # more elements than can be counted
        parameters = MOST + 1
    if parameters > MOST:
        raise UsageError(f"a network of more than {MOST:,} parameters is not made here; give smaller widths")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()

"""Length of a token, before the projector and behind it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradprobe.core import top_k
from gradprobe.view import Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class Norm:
    """Keep the K longest tokens before the projector, ``s_i = |x_i|``.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> tokens = torch.tensor([[[1.0], [-3.0], [2.0]]])
        >>> Norm()(View(Noise(0, (0,)), tokens), 2).index.tolist()
        [[1, 2]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout("s_i = |x_i|")

    def scores(self, view: View) -> Tensor:
        """Return the lengths, ``(B, N)``."""
        return lengths_of(view.features)

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K longest tokens."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return 0: no matrix is multiplied."""
        return 0


@dataclass(frozen=True)
class ProjectedNorm:
    """Keep the K longest tokens behind the projector, ``s_i = |P(x_i)|``.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> tokens = torch.tensor([[[1.0], [-3.0], [2.0]]])
        >>> ProjectedNorm()(View(Noise(0, (0,)), tokens, projector=lambda x: x - 2), 2).index.tolist()
        [[0, 1]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout("s_i = |P(x_i)|")

    def scores(self, view: View) -> Tensor:
        """Return the lengths, ``(B, N)``.

        Raises:
            Unavailable: There is no projector.
        """
        return lengths_of(view.project(view.features))

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K longest tokens."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of projecting all tokens."""
        return sizes.n * sizes.projector


def lengths_of(tokens: Tensor) -> Tensor:
    """Return the lengths of tokens, in float32 at least: rounded to half precision, many would be equal."""
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32)).norm(dim=-1)

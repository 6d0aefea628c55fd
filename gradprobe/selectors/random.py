"""Random tokens: the floor under every selector."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradprobe.core import top_k
from gradprobe.view import Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class Random:
    """Keep K tokens drawn uniformly, the same for an image in any batch.

    ``s_i ~ U(0, 1)``, keyed by seed and image; a control that FasterVLM's readers asked for.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> Random()(View(Noise(0, (7,)), torch.zeros(1, 5, 2)), 2).index.shape
        torch.Size([1, 2])
    """

    about: ClassVar[SelectorAbout] = SelectorAbout("s_i uniform")

    def scores(self, view: View) -> Tensor:
        """Return uniform numbers, ``(B, N)``."""
        return view.uniform()

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the largest numbers."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return 0: random numbers are not counted."""
        return 0

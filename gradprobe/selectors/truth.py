"""Tokens that are known to matter: an upper bound where the truth is known."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradprobe.core import top_k
from gradprobe.view import Kept, SelectorAbout, Sizes, Unavailable, View


@dataclass(frozen=True)
class Truth:
    """Keep the tokens that are known to matter first, the rest at random.

    ``s_i = 1[i matters] + u_i / 2``, u uniform and keyed by image.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> relevant = torch.tensor([[False, True, True, False]])
        >>> Truth()(View(Noise(0, (0,)), torch.zeros(1, 4, 2), relevant=relevant), 2).index.tolist()
        [[1, 2]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout("s_i = 1[i matters] + u_i / 2, u_i uniform")

    def scores(self, view: View) -> Tensor:
        """Return the scores, ``(B, N)``.

        Raises:
            Unavailable: It is not known which tokens matter.
        """
        if view.relevant is None:
            raise Unavailable("it is not known which tokens of these images matter")
        return view.relevant + 0.5 * view.uniform()

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the largest scores."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return 0: nothing is computed."""
        return 0

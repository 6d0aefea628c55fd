"""FastV: what the prompt's last token attends to early in the language model."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradprobe.core import top_k
from gradprobe.view import Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class FastV:
    """Keep the K tokens to which the prompt's last token attends most in the layer before.

    ``s_i = mean_h softmax(q_last k^T / sqrt(d_h))_i``, over all positions that the last token sees; asked before layer
    2, and so of the attention of layer 1 (layers count from 0).

    Source: Chen et al., An Image is Worth 1/2 Tokens After Layer 2 (ECCV 2024) and its code with a cache, which keeps
    the same tokens while it decodes. Done otherwise: the row of attention is recomputed, so that any attention
    implementation will do. Default positions: keep.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from gradprobe.core import Noise
        >>> place = SimpleNamespace(attention=lambda rows, layer: torch.tensor([[0.1, 0.4, 0.2]]))
        >>> FastV()(View(Noise(0, (0,)), None, place=place), 2).index.tolist()
        [[1, 2]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout(
        "s_i = attention of the prompt's last token in the layer before, mean over heads",
        "FastV, ECCV 2024, arXiv 2403.06764",
        ("fastv",),
        layers=(2,),
    )

    def scores(self, view: View) -> Tensor:
        """Return the attention, ``(B, M)``.

        Raises:
            Unavailable: Outside a language model, at its first layer, or with projections that are not known.
        """
        return view.inside.attention(rows="last", layer=-1)

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the largest attention."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of one recomputed row of attention; the layer before has its keys already."""
        return row_flops(sizes, rows=1)


def row_flops(sizes: Sizes, rows: int) -> int:
    """Count the FLOPs of some queries and of their products with all keys."""
    return 2 * rows * (sizes.width + sizes.n + sizes.text) * sizes.query_width


def attention_flops(sizes: Sizes, rows: int) -> int:
    """Count the FLOPs of some rows of attention in a layer to come, whose keys have to be computed."""
    return 2 * (sizes.n + sizes.text) * sizes.width * sizes.key_width + row_flops(sizes, rows)

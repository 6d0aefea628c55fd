"""PyramidDrop: what the prompt's last token would attend to in the layer to come, at several layers."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradprobe.core import top_k
from gradprobe.selectors.fastv import attention_flops
from gradprobe.view import Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class PyramidDrop:
    """Keep the K tokens to which the prompt's last token would attend most in the layer to come.

    ``s_i = mean_h softmax(q_last k^T / sqrt(d_h))_i`` with queries and keys of layer L computed before it runs; asked
    at several layers, of whatever is left. Its own budgets: 1/2, 1/4 and 1/8 of N from layers 8, 16 and 24 on.

    Source: Xing et al., PyramidDrop (CVPR 2025) and its code at inference. Done otherwise: in training, which it speeds
    up as well, its code reads the tokens before each answer of a dialogue; here the prompt has one end. Default
    positions: compact.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from gradprobe.core import Noise
        >>> place = SimpleNamespace(attention=lambda rows, layer: torch.tensor([[0.1, 0.4, 0.2]]))
        >>> PyramidDrop()(View(Noise(0, (0,)), None, place=place), 1).index.tolist()
        [[1]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout(
        "s_i = attention of the prompt's last token in the layer to come, mean over heads",
        "PyramidDrop, CVPR 2025, arXiv 2410.17247",
        ("pyramiddrop",),
        layers=(8, 16, 24),
        positions="compact",
    )

    def scores(self, view: View) -> Tensor:
        """Return the attention, ``(B, M)``.

        Raises:
            Unavailable: Outside a language model, or with projections that are not known.
        """
        return view.inside.attention(rows="last", layer=0)

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the largest attention."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of one row of attention; its keys are computed again when the layer runs."""
        return attention_flops(sizes, rows=1)

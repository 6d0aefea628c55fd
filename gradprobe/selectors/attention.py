"""Attention within the vision tower, in the layer whose output becomes the visual tokens."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor

from gradprobe.core import top_k
from gradprobe.errors import UsageError, nearest
from gradprobe.view import Kept, Query, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class ClassAttention:
    """Keep the K tokens to which the vision tower's class token attends most.

    ``s_i = mean_h softmax(q_class k^T / sqrt(d_h))_i`` within each picture.

    Source: the ranking of FasterVLM (and, in a ViT, of EViT), and of the dominant tokens of VisionZip. Default
    positions: compact.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Tower, TowerLayer
        >>> rows = torch.tensor([[[1.0], [0.0], [2.0], [1.0]]])  # the class token, then three patches
        >>> layer = TowerLayer(rows, rows, heads=1, prefix=1)
        >>> view = View(Noise(0, (0,)), torch.zeros(1, 3, 2), make_tower=lambda: Tower(last=layer, first=layer))
        >>> ClassAttention()(view, 1).index.tolist()
        [[1]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout(
        "s_i = attention of the class token, mean over heads",
        "FasterVLM, arXiv 2412.01818",
        ("fastervlm",),
        positions="compact",
    )

    def scores(self, view: View) -> Tensor:
        """Return the attention, ``(B, N)``.

        Raises:
            Unavailable: The attention cannot be told, or there is no class token.
        """
        return view.tower.last.attention("class")

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the largest attention."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of one row of queries; queries and keys are the tower's own."""
        return attention_flops(sizes, "class")


@dataclass(frozen=True)
class MeanAttention:
    """Keep the K tokens to which the patches of their picture attend most on average.

    ``s_i = mean_{h, j} softmax(q_j k^T / sqrt(d_h))_i``; for towers without a class token, or with an untrained one.

    Source: the score of VisionZip for towers without a class token. Default positions: keep.

    Example:
        >>> import torch
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Tower, TowerLayer
        >>> rows = torch.tensor([[[0.0], [2.0], [1.0]]])
        >>> layer = TowerLayer(rows, rows, heads=1, prefix=0, class_token=False)
        >>> view = View(Noise(0, (0,)), torch.zeros(1, 3, 2), make_tower=lambda: Tower(last=layer, first=layer))
        >>> MeanAttention()(view, 2).index.tolist()
        [[1, 2]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout(
        "s_i = attention of all patches on average, mean over heads", "VisionZip, CVPR 2025", ("visionzip",)
    )

    def scores(self, view: View) -> Tensor:
        """Return the attention, ``(B, N)``.

        Raises:
            Unavailable: The attention cannot be told.
        """
        return view.tower.last.attention("mean")

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the largest attention."""
        return Kept(top_k(self.scores(view), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of a row of queries a patch; queries and keys are the tower's own."""
        return attention_flops(sizes, "mean")


def attention_flops(sizes: Sizes, query: Query) -> int:
    """Count the FLOPs of `gradprobe.view.TowerLayer.attention`."""
    rows = 1 if query == "class" else sizes.patches - sizes.prefix
    return 2 * sizes.pictures * rows * sizes.patches * sizes.tower_width


def check_query(name: str, query: str) -> None:
    """Refuse queries other than ``class`` and ``mean``.

    Raises:
        UsageError: Another word.
    """
    if query not in get_args(Query):
        raise UsageError(f"{name}:query={query} is not possible; {nearest(query, get_args(Query))}")

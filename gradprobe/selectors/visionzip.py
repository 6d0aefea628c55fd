"""VisionZip: the most attended tokens, and evenly spaced ones merged with the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.core import top_k
from gradprobe.errors import UsageError
from gradprobe.selectors.attention import attention_flops, check_query
from gradprobe.selectors.farthest import directions_of, snapped
from gradprobe.view import Kept, Query, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class VisionZip:
    """Keep the tokens that the tower attends to most, and merge the others into evenly spaced ones.

    Of K tokens, ``C = round(context K)`` are contextual, at least one and at most K - 1; the K - C others are dominant,
    those of the largest attention. Of the m tokens left, those number 0, ``floor(m / C)``, ``2 floor(m / C)``, ... are
    targets t; every other token i joins the target of the most similar key, ``argmax_t cos(k_i, k_t)`` with keys of the
    tower averaged over heads, and ``x'_t = x_t + mean_{i joins t} x_i``, which stands at the target's place.

    Source: Yang et al., VisionZip (CVPR 2025) and its code; its own budgets are 64 (54 dominant, 10 contextual), 128
    and 192 of 576. Done otherwise: no class token, which LLaVA's usual strategy drops, is among the dominant tokens;
    merged tokens stay in order; LLaVA-NeXT's tiles are taken as one image. With K = N nothing is merged. Default
    positions: compact.

    Attributes:
        query: ``class``, attention of the class token, or ``mean``, of all patches on average.
        context: Share of contextual tokens, 0 (none, and so nothing is merged) up to but not 1.

    Example:
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Tower, TowerLayer
        >>> rows = torch.tensor([[[1.0], [3.0], [0.0], [2.0], [1.0]]])  # the class token, then four patches
        >>> layer = TowerLayer(rows, rows, heads=1, prefix=1)
        >>> tokens = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
        >>> kept = VisionZip()(View(Noise(0, (0,)), tokens, make_tower=lambda: Tower(layer, layer)), 2)
        >>> kept.index.tolist(), kept.tokens[..., 0].tolist()
        ([[0, 1]], [[10.0, 55.0]])
    """

    query: Query = "class"
    context: float = 10 / 64
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "top attention, and x_t + mean of the tokens whose keys are most like t's, t evenly spaced among the rest",
        "VisionZip, CVPR 2025, arXiv 2412.04467",
        ("visionzip",),
        positions="compact",
    )

    def __post_init__(self) -> None:
        check_query("visionzip", self.query)
        if not 0 <= self.context < 1:
            raise UsageError(f"visionzip:context={self.context:g}: it must be from 0 to below 1, e.g. 0.15625")

    def __call__(self, view: View, k: int) -> Kept:
        """Return dominant and contextual tokens."""
        x, layer = view.features, view.tower.last
        (b, n), c = x.shape[:2], self.contextual(k)
        dominant = top_k(layer.attention(self.query), k - c)
        left = torch.zeros(b, n, device=x.device).scatter(1, dominant, 1).argsort(dim=1, stable=True)[:, : n - k + c]
        spots = torch.arange(c, device=x.device) * (left.shape[1] // max(c, 1))
        targets = left[:, spots]
        index = torch.cat([dominant, targets], 1)
        if c == 0 or k == n:
            return Kept(index.sort(1).values)
        others = left[:, torch.ones(left.shape[1], dtype=torch.bool, device=x.device).index_fill(0, spots, False)]
        keys = directions_of(layer.patch_keys.unflatten(-1, (layer.heads, -1)).mean(-2))
        joined = snapped(_rows(keys, others) @ _rows(keys, targets).mT).argmax(-1)  # (B, N - K)
        tokens = torch.cat([_rows(x, dominant), _merged(_rows(x, targets), _rows(x, others), joined)], 1)
        index, order = index.sort(1)
        return Kept(index, _rows(tokens, order))

    def contextual(self, k: int) -> int:
        """Return C, the number of contextual tokens among K."""
        return min(k - 1, max(1, round(self.context * k))) if self.context else 0

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of the attention, of the similarities with the targets and of the means."""
        head = sizes.tower_width // sizes.tower_heads
        return attention_flops(sizes, self.query) + 2 * (sizes.n - k) * self.contextual(k) * (head + sizes.dim)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Return rows of each image, ``(B, N, D), (B, M) -> (B, M, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _merged(targets: Tensor, others: Tensor, joined: Tensor) -> Tensor:
    """Add to each target the mean of the tokens that join it, ``(B, C, D), (B, M, D), (B, M) -> (B, C, D)``."""
    exact = torch.promote_types(targets.dtype, torch.float32)
    members = F.one_hot(joined, targets.shape[1]).to(exact)
    sums = members.mT @ others.to(exact)
    return (targets + sums / members.sum(1).clamp(min=1)[..., None]).to(targets.dtype)

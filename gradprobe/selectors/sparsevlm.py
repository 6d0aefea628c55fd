"""SparseVLM: what the words that fit the image attend to; of the rest, some are merged into cluster centres."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.core import top_k
from gradprobe.errors import UsageError
from gradprobe.selectors.fastv import attention_flops
from gradprobe.view import Inside, Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class SparseVLM:
    """Keep the tokens to which the words that fit the image attend, and merge some of the others.

    Raters are the words behind the image with ``m_t > mean(m)``, ``m = mean_i softmax_t(x_i . y_t)`` over all visual
    tokens x and words y as they entered the language model; they are the same at every layer. Scores are the raters'
    attention in the layer to come, ``s_i = mean_{h, t} softmax(q_t k^T / sqrt(d_h))_i``.

    Of K tokens R have the largest scores. The next ``n = int(0.3 (M - R)) + 1`` are recycled: merged into
    ``C = int(n / 10) + 1`` means, one for each cluster. Density peaks give the clusters: with the distances
    ``d_ij = |x_i - x_j| / sqrt(d)`` of hidden states, ``rho_i = exp(-mean_j d_ij^2)`` over the C nearest (i itself is
    one), ``delta_i`` the distance to the nearest denser token (of the densest: the largest distance), the C largest
    ``rho delta`` are centres and each token joins the nearest one. The mean stands at the centre's place.

    Source: Zhang et al., SparseVLM (ICML 2025) and its code, version 1; SparseVLM+ is left out. Done otherwise: K
    counts the centres, ``K = R + C``, where its tables count R (300, 200, 110 for an average of 192), and C is at most
    K / 2; tokens are dropped before layers 2, 6 and 15 where the code drops at their ends, with the same attention; of
    equal densities that of the larger score counts as larger, where the code adds noise; where no word fits more than
    another, all words behind the image rate, and the last token where there are none. With K = M nothing is merged.
    Default positions: compact.

    Attributes:
        recycled: Share of the dropped tokens that are merged, 0 (none) to 1.
        members: Merged tokens of a cluster, about.

    Example:
        >>> from types import SimpleNamespace
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Words
        >>> words = Words(torch.ones(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
        >>> place = SimpleNamespace(hidden=torch.tensor([[[1.0], [2.0], [4.0], [8.0]]]), first=torch.ones(1, 4, 1))
        >>> place.first_words, place.behind = words, words.mask
        >>> place.attention = lambda rows, layer: torch.tensor([[0.1, 0.2, 0.4, 0.3]])
        >>> kept = SparseVLM(recycled=1)(View(Noise(0, (0,)), None, place=place), 2)
        >>> kept.index.tolist(), [round(x, 3) for x in kept.tokens[0, :, 0].tolist()]
        ([[2, 3]], [4.0, 3.667])
    """

    recycled: float = 0.3
    members: int = 10
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "s_i = attention of the words that fit the image; of the others, the best are merged by density peaks",
        "SparseVLM, ICML 2025, arXiv 2410.04417",
        ("sparsevlm",),
        layers=(2, 6, 15),
        positions="compact",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.recycled <= 1:
            raise UsageError(f"sparsevlm:recycled={self.recycled:g}: it must be from 0 to 1, e.g. 0.3")
        if self.members < 1:
            raise UsageError(f"sparsevlm:members={self.members}: it must be at least 1, e.g. 10")

    def __call__(self, view: View, k: int) -> Kept:
        """Return the tokens of the largest scores, and cluster centres with the means of their clusters."""
        states, scores = view.inside.hidden, self._scores(view.inside)
        recycled, centres = self.split(scores.shape[1], k)
        ranked = top_k(scores, k - centres)
        if not centres:
            return Kept(ranked)
        rest = scores.scatter(1, ranked, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :recycled]
        rows = torch.arange(len(states), device=states.device)[:, None]
        peaks, means = merged_by_density(states[rows, rest], centres)
        index, order = torch.cat([ranked, rest.gather(1, peaks)], 1).sort(1)
        tokens = torch.cat([states[rows, ranked], means.to(states.dtype)], 1)
        return Kept(index, tokens[rows, order])

    def relevance(self, view: View) -> Tensor:
        """Return the raters' attention, ``(B, M)``, which decides all but what is merged."""
        return self._scores(view.inside)

    def split(self, m: int, k: int) -> tuple[int, int]:
        """Return n, the number of recycled tokens, and C, that of their centres, of K among M."""
        if k == m or not self.recycled:
            return 0, 0
        ranked = k // 2 + k % 2  # K - C at least
        ranked = next((r for r in range(k, ranked, -1) if r + self._centres(m - r) <= k), ranked)
        return self._candidates(m - ranked), k - ranked

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of raters, attention and merging; at most, as every word is counted as a rater."""
        recycled, centres = self.split(sizes.n, k)
        raters = 2 * sizes.n * sizes.text * sizes.width
        merging = 2 * recycled * (recycled + centres) * sizes.width
        return raters + attention_flops(sizes, rows=sizes.text) + merging

    def _candidates(self, dropped: int) -> int:
        return min(dropped, int(self.recycled * dropped) + 1)

    def _centres(self, dropped: int) -> int:
        candidates = self._candidates(dropped)
        return min(candidates, candidates // self.members + 1)

    def _scores(self, inside: Inside) -> Tensor:
        chosen = raters(inside)
        scores = inside.attention(rows=chosen, layer=0)
        nobody = ~chosen.any(1, keepdim=True)
        return torch.where(nobody, inside.attention(rows="last", layer=0), scores) if bool(nobody.any()) else scores


def raters(inside: Inside) -> Tensor:
    """Return a mask of the words that fit the image better than the average word behind it, ``(B, T)``."""
    words, behind = inside.first_words, inside.behind
    fit = (inside.first.float() @ words.states.float().mT).masked_fill(~behind[:, None], -torch.inf)
    mean = fit.softmax(-1).mean(1).masked_fill(~behind, 0)  # a row without words gives NaN, which is masked
    best = behind & (mean > mean.sum(1, keepdim=True) / behind.sum(1, keepdim=True))
    return torch.where(best.any(1, keepdim=True), best, behind)


def merged_by_density(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cluster tokens by density peaks, and average the tokens of each cluster; of equal densities the first is larger.

    ``log rho + log delta`` is compared instead of ``rho delta``, which underflows where states are large.

    Args:
        states: ``(B, n, d)``.
        count: C, the number of clusters, 1..n.

    Returns:
        Numbers of the centres, ascending ``(B, C)``, and the means of their clusters ``(B, C, d)``, float64.

    Example:
        >>> peaks, means = merged_by_density(torch.tensor([[[0.0], [1.0], [7.0], [8.0], [9.0]]]), 2)
        >>> peaks.tolist(), means[..., 0].tolist()
        ([[0, 2]], [[0.5, 8.0]])
    """
    exact = states.double()
    products = exact @ exact.mT
    squares = products.diagonal(dim1=1, dim2=2)
    square = (squares[:, :, None] + squares[:, None] - 2 * products).clamp(min=0) / states.shape[-1]
    square = (square + square.mT) / 2  # to the last place, so that two nearest neighbours have equal densities
    square.diagonal(dim1=1, dim2=2).zero_()
    distance = square.sqrt()
    density = -square.topk(count, largest=False).values.mean(-1)
    earlier = torch.ones_like(square[0], dtype=torch.bool).tril(-1)  # [i, j]: j comes before i
    equal = density[:, None] == density[:, :, None]
    denser = (density[:, None] > density[:, :, None]) | (equal & earlier)
    farthest = distance.amax((1, 2), keepdim=True)
    apart = torch.where(denser, distance, farthest).amin(-1)
    peaks = top_k(density + apart.log(), count)
    to_peaks = distance.gather(2, peaks[:, None].expand(-1, distance.shape[1], -1))
    own = torch.arange(count, device=peaks.device).expand_as(peaks)
    cluster = to_peaks.argmin(-1).scatter(1, peaks, own)
    members = F.one_hot(cluster, count).to(exact)
    return peaks, (members.mT @ exact) / members.sum(1)[..., None]

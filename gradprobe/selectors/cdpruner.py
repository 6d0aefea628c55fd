"""CDPruner: the most probable subset of a determinantal point process, conditioned on the prompt."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradprobe.selectors.farthest import directions_of, similarities, snapped
from gradprobe.view import Kept, SelectorAbout, Sizes, View

NOTHING = 1e-10  # squared length of what a token adds to the span of the chosen ones, below which it adds nothing


@dataclass(frozen=True)
class CDPruner:
    """Keep K tokens by greedy maximisation of ``det L_S``, ``L_ij = r_i cos(z_i, z_j) r_j`` of projected tokens z.

    r is the relevance, ``-mean_t cos(z_i, e_t)`` over the prompt's text tokens e, scaled to 0..1 over the image; the
    minus sign is that of the released code. ``det L_S = prod r_i^2 det cos_S``, so that each step takes the token with
    the largest ``r_i^2 |z_i - its projection on the span of those chosen|^2``. The choices for all K are nested.

    Tokens that lie in the span of the chosen ones would make the determinant 0, as all do once K exceeds the rank: they
    come last, by relevance. Equal relevances count as 1.

    Source: Zhang et al., CDPruner (NeurIPS 2025) and its code; greedy steps: Chen et al., Fast Greedy MAP Inference for
    Determinantal Point Process (NeurIPS 2018). A budget of its own is 160 of 2,880. Done otherwise: e are the text's
    embeddings in the language model, and z compared with them, in place of CLIP's text tower and CLIP's projected
    patches, which a LLaVA does not carry; rows of L are computed as tokens are chosen, ``O(N K)`` memory in all.
    Default positions: compact.

    Example:
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Words
        >>> tokens = torch.tensor([[[1.0, 0.1], [1.0, 0.0], [0.2, 1.0]]])
        >>> words = Words(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[True]]))
        >>> CDPruner()(View(Noise(0, (0,)), tokens, make_words=lambda: words), 2).index.tolist()
        [[0, 1]]
    """

    about: ClassVar[SelectorAbout] = SelectorAbout(
        "greedy argmax det L_S, L_ij = r_i cos(z_i, z_j) r_j, r = -cos of projected tokens and words, scaled to 0..1",
        "CDPruner, NeurIPS 2025, arXiv 2506.10967",
        ("cdpruner",),
        positions="compact",
    )

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the greedy subset."""
        z = directions_of(view.projected)
        return Kept(greedy_subset(z, relevance(view, z), k).sort(1).values)

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of projecting all tokens, of the relevance, and of a row of L and its projection a step."""
        n = sizes.n
        return n * sizes.projector + 2 * n * sizes.width * k + 2 * n * ((k - 1) * (k - 2) // 2)


def relevance(view: View, z: Tensor) -> Tensor:
    """Return r of tokens of length 1, ``(B, N, d) -> (B, N)``.

    Raises:
        Unavailable: There is no text.
    """
    words = view.words
    mask = words.mask[..., None].to(z)
    mean = (directions_of(words.states.to(z.device)) * mask).sum(1) / mask.sum(1).clamp(min=1)
    alike = snapped((z @ mean[..., None])[..., 0])
    low, high = (-alike).aminmax(dim=1, keepdim=True)
    return torch.where(high > low, (-alike - low) / (high - low), 1)


def greedy_subset(z: Tensor, relevance: Tensor, k: int) -> Tensor:
    """Choose K tokens by the largest growth of ``prod r_i^2 det(z z^T)``.

    Args:
        z: Tokens of length 1 (or 0), ``(B, N, d)``.
        relevance: r in 0..1, ``(B, N)``.
        k: Number of tokens, 1..N.

    Returns:
        Token numbers ``(B, K)``, the first chosen first.
    """
    added = z.square().sum(-1)  # squared length outside the span of the chosen ones
    taken = torch.zeros_like(added, dtype=torch.bool)
    basis = z.new_zeros(len(z), k, z.shape[1])  # of that span, one row a step: inner products with all tokens
    order: list[Tensor] = []
    for step in range(k):
        growth = snapped(relevance.square() * added)
        value = torch.where(added > NOTHING, growth, relevance - 2)  # those in the span come last
        order.append(value.masked_fill(taken, -torch.inf).argmax(-1))
        if step == k - 1:
            break
        token = order[-1][:, None]
        taken.scatter_(1, token, True)
        known = basis[:, :step]
        row = similarities(z, order[-1]) - (known.gather(2, token[..., None].expand(-1, step, 1)).mT @ known)[:, 0]
        length = added.gather(1, token)
        basis[:, step] = torch.where(length > NOTHING, row * length.clamp(min=NOTHING).rsqrt(), 0)
        added = (added - basis[:, step].square()).clamp(min=0)
    return torch.stack(order, 1)

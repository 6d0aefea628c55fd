"""DART: tokens unlike a few pivots, whatever they are attended to."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradprobe.core import top_k
from gradprobe.errors import UsageError
from gradprobe.selectors.farthest import directions_of, snapped
from gradprobe.view import Inside, Kept, SelectorAbout, Sizes, View


@dataclass(frozen=True)
class DART:
    """Keep pivots, and for each pivot the tokens that are least like it.

    Pivots are the visual tokens and the words behind the image with the largest ``|k|_1``, the L1 norm of their keys in
    this layer. One after the other, image pivots first and each kind by falling norm, they take the tokens of the
    smallest cosine ``cos(x_i, x_pivot)`` of hidden states that are not taken yet, K minus the image pivots in all, in
    equal shares; the first take one more where that does not divide. No attention is read.

    Source: Wen et al., Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More (EMNLP
    2025) and its code. Done otherwise: its code takes ``int(K / pivots)`` tokens a pivot besides the image pivots, and
    so keeps another number than K; here K is exact, and of K below the number of image pivots only image pivots stay.
    Its code reads the rotated keys of the layer before, goes through pivots by their place, and compares hidden states
    behind the model's final norm. Default positions: keep.

    Attributes:
        image: Visual tokens among the pivots, at least 1.
        text: Words among the pivots; fewer where there are fewer.

    Example:
        >>> from types import SimpleNamespace
        >>> from gradprobe.core import Noise
        >>> from gradprobe.view import Words
        >>> x = torch.tensor([[[3.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]])
        >>> none = torch.zeros(1, 0, dtype=torch.bool)
        >>> place = SimpleNamespace(hidden=x, keys=x, word_keys=torch.zeros(1, 0, 2), behind=none)
        >>> place.words = Words(torch.zeros(1, 0, 2), none)
        >>> DART(image=1)(View(Noise(0, (0,)), None, place=place), 2).index.tolist()
        [[0, 3]]
    """

    image: int = 4
    text: int = 4
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "pivots of the largest |k|_1, and the tokens of the smallest cosine with each",
        "DART, EMNLP 2025, arXiv 2502.11494",
        ("dart",),
        layers=(2,),
    )

    def __post_init__(self) -> None:
        if self.image < 1 or self.text < 0:
            raise UsageError(f"dart:image={self.image},text={self.text}: it needs image pivots, e.g. image=4,text=4")

    def __call__(self, view: View, k: int) -> Kept:
        """Return image pivots, and the tokens that pivots take."""
        inside, count = view.inside, min(self.image, k)
        states = directions_of(inside.hidden)
        images = _longest(inside.keys, count)
        rows = torch.arange(len(images), device=images.device)[:, None]
        words, there = self._words(inside)
        pivots = torch.cat([states[rows, images], words], 1)
        there = torch.cat([torch.ones_like(images, dtype=torch.bool), there], 1)
        cosine = snapped(pivots @ states.mT)
        taken = torch.zeros_like(cosine[:, 0], dtype=torch.bool).scatter(1, images, True)
        for each, share in zip(cosine.unbind(1), _shares(k - count, there).unbind(1), strict=True):
            order = each.masked_fill(taken, torch.inf).argsort(dim=1, stable=True)
            taken = taken | (order.argsort(dim=1) < share[:, None])
        return Kept(top_k(taken.float(), k))

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of the keys and of the cosines; the keys are computed again when the layer runs."""
        keys = 2 * (sizes.n + sizes.text) * sizes.width * sizes.key_width
        return keys + 2 * (min(self.image, k) + min(self.text, sizes.text)) * sizes.n * sizes.width

    def _words(self, inside: Inside) -> tuple[Tensor, Tensor]:
        """Return directions of the text pivots ``(B, P, d)``, and False where a row has fewer ``(B, P)``."""
        behind = inside.behind
        length = inside.word_keys.double().abs().sum(-1).masked_fill(~behind, -torch.inf)
        pivots = length.argsort(dim=1, descending=True, stable=True)[:, : self.text]
        rows = torch.arange(len(pivots), device=pivots.device)[:, None]
        return directions_of(inside.words.states[rows, pivots]), behind.gather(1, pivots)


def _longest(keys: Tensor, count: int) -> Tensor:
    """Return the numbers of the largest L1 norms, by falling norm ``(B, count)``."""
    return keys.double().abs().sum(-1).argsort(dim=1, descending=True, stable=True)[:, :count]


def _shares(tokens: int, there: Tensor) -> Tensor:
    """Divide tokens equally among the pivots that are there ``(B, P)``; the first get one more."""
    number, nth = there.sum(1, keepdim=True), there.cumsum(1) - 1
    return (tokens // number + (nth < tokens % number)) * there

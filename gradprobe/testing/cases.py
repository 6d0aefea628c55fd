"""Inputs that every operator has to withstand."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from gradprobe.core import Noise

TOKENS = 17
WIDTH = 6
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def score_cases(n: int = TOKENS) -> dict[str, Tensor]:
    """Return scores that break careless code: ties, huge, tiny, crowded, far from zero.

    Args:
        n: Number of tokens.

    Returns:
        Scores ``(4, n)`` in float64 by name, the same in every call.

    Example:
        >>> score_cases(5)["ties"].shape
        torch.Size([4, 5])
    """
    generator = torch.Generator().manual_seed(20)
    normal = torch.randn(4, n, generator=generator, dtype=torch.float64)
    signs = torch.where(normal > 0, 1.0, -1.0).double()
    outlier = normal.clone()
    outlier[:, n // 2] = 1e4
    return {
        "normal": normal,
        "ties": normal.round(),
        "zeros": torch.zeros_like(normal),
        "ten thousand": 1e4 * signs,
        "wide": 1e4 * normal,
        "tiny": 1e-9 * normal,
        "sorted": normal.sort(-1).values,
        "reversed": normal.sort(-1, descending=True).values,
        "one outlier": outlier,
        "two crowds": 100 * signs + 1e-6 * normal,
        "heavy tail": normal.sign() * (3 * normal.abs()).exp(),
        "far from zero": 1e4 + normal,
    }


def budgets(n: int) -> list[int]:
    """Return the budgets to try: 1, a third, all but one and all of N tokens."""
    return sorted({1, max(1, n // 3), max(1, n - 1), n})


@dataclass(frozen=True)
class Case:
    """Arguments of a call of an operator.

    Attributes:
        kinds: Kind of the scores of each image, B names.
        scores: Scores, ``(B, N)``.
        patches: Patches, ``(B, N, D)``.
        k: Number of tokens kept.
        noise: Noise, keyed by image.
    """

    kinds: tuple[str, ...]
    scores: Tensor
    patches: Tensor
    k: int
    noise: Noise

    def describe(self, row: int = 0) -> str:
        """Describe the input of one image in words."""
        n = self.scores.shape[1]
        return f"{self.kinds[row]}, {str(self.scores.dtype).removeprefix('torch.')}, N = {n}, K = {self.k}"

    def subset(self, which: list[int]) -> "Case":
        """Return the case of some of the images, with their noise."""
        return replace(
            self,
            kinds=tuple(self.kinds[i] for i in which),
            scores=self.scores[which],
            patches=self.patches[which],
            noise=replace(self.noise, ids=[self.noise.ids[i] for i in which]),
        )

    def parts(self) -> list["Case"]:
        """Return one case for each kind of scores; none if there is only one kind."""
        kinds = list(dict.fromkeys(self.kinds))
        if len(kinds) == 1:
            return []
        return [self.subset([i for i, kind in enumerate(self.kinds) if kind == wanted]) for wanted in kinds]

    def to(self, device: str) -> "Case":
        """Return the case on another device."""
        return replace(self, scores=self.scores.to(device), patches=self.patches.to(device))

    def leaf(self) -> "Case":
        """Return the case with scores that require a gradient."""
        return replace(self, scores=self.scores.detach().clone().requires_grad_())


def case_of(scores: Tensor, k: int, kind: str = "normal") -> Case:
    """Return a case with these scores, Gaussian patches and the noise of images 0, 1, ..."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(*scores.shape, WIDTH, generator=generator, dtype=torch.float64).to(scores)
    return Case((kind,) * len(scores), scores, patches, k, Noise(0, range(len(scores))))


def normal_case(k: int = 6, dtype: torch.dtype = torch.float64) -> Case:
    """Return the plainest case: four images of Gaussian scores."""
    return case_of(score_cases()["normal"].to(dtype), k)


@cache
def catalogue(dtype: torch.dtype, k: int) -> Case:
    """Return every kind of scores in one batch."""
    kinds = score_cases()
    case = case_of(torch.cat(list(kinds.values())).to(dtype), k)
    return replace(case, kinds=tuple(name for name, scores in kinds.items() for _ in scores))

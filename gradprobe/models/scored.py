"""A trained scorer as a selector."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradprobe.core import top_k
from gradprobe.errors import GradprobeError
from gradprobe.models.backbones import frozen
from gradprobe.view import Kept, SelectorAbout, Unavailable, View


@dataclass(frozen=True)
class Scored:
    """Keep the K tokens that a trained scorer ranks first, without its throttle and denoiser.

    Source: DiffPrune, section 4.1 (Eq. 3 at inference).

    Attributes:
        scorer: Tokens ``(B, N, D)`` -> scores ``(B, N)``; None in a plan that was typed, until a pruner gives one.

    Example:
        >>> from gradprobe.core import Noise
        >>> scorer = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten())
        >>> kept = Scored(scorer)(View(Noise(0, (0,)), torch.randn(1, 6, 2)), 3)
        >>> kept.index.shape
        torch.Size([1, 3])
    """

    scorer: nn.Module | None = field(default=None, compare=False)
    about: ClassVar[SelectorAbout] = SelectorAbout("s = scorer(x), trained", "DiffPrune, Eq. 3", ("diffprune",))

    def scores(self, view: View) -> Tensor:
        """Return the scores, ``(B, N)``.

        Raises:
            Unavailable: There is no scorer.
            GradprobeError: Scores that are no numbers.
        """
        if self.scorer is None:
            raise Unavailable("scored ranks by a trained scorer; name its folder with --pruner DIR")
        like: Any = next(self.scorer.parameters(), view.features)
        with torch.no_grad(), frozen(self.scorer):
            scores = self.scorer(view.features.to(like.dtype))
        if not bool(scores.isfinite().all()):
            raise GradprobeError(
                "the scorer gave scores that are no numbers; open the model with --dtype float32, or train again"
            )
        return scores

    def __call__(self, view: View, k: int) -> Kept:
        """Return the K tokens of the highest scores."""
        return Kept(top_k(self.scores(view), k))

"""Ranking of the visual tokens of one image by a scorer, and similarity of the first and the last of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.core import Noise, Stream
from gradprobe.data.pixels import displayed
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.backbones import frozen
from gradprobe.models.similarity import cosines, ends_of
from gradprobe.nans import refuse_nan
from gradprobe.vlm.choosing import Images
from gradprobe.vlm.families.base import View
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner

NORM = "the length of a token"


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ranking of the N visual tokens of an image, and cosine similarities of its two ends.

    Attributes:
        scores: ``(N,)``, in the order in which the language model reads the tokens.
        top: Numbers of the K tokens of the highest scores, the highest first, ``(K,)``.
        bottom: Numbers of the K of the lowest scores, the lowest last, ``(K,)``.
        similarity: ``cos(x_i, x_j)`` of [top; bottom] before the projector, ``(2K, 2K)``.
        views: Pictures that the tokens cover, in the order of the tokens.
        ranked_by: Name of the scores.
    """

    scores: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    similarity: np.ndarray
    views: tuple[View, ...]
    ranked_by: str

    def means(self) -> dict[str, float | None]:
        """Return the mean similarity of two different tokens within top, within bottom, and across; None with K = 1."""
        k = len(self.top)
        blocks = {"top": self.similarity[:k, :k], "bottom": self.similarity[k:, k:]}
        other = ~np.eye(k, dtype=bool)
        within = {name: float(block[other].mean()) if k > 1 else None for name, block in blocks.items()}
        return within | {"across": float(self.similarity[:k, k:].mean())}


def ranking(
    vlm: VLM, inputs: Mapping[str, Any], k: int, scorer: nn.Module | Tensor | None = None, ranked_by: str = NORM
) -> Ranking:
    """Rank the visual tokens of one image.

    Args:
        vlm: The model.
        inputs: Of one image, as the model's processor returns them; text is not needed.
        k: Tokens at each end, 1..N/2.
        scorer: Tokens ``(B, N, D)`` -> scores ``(B, N)``, as ``Pruner.scorer``, or scores ``(N,)``, as `scores_by`;
            None: the length ``|x_i|`` of a token.
        ranked_by: Name of these scores.

    Raises:
        UsageError: Not one image, or a K whose two ends would overlap.
        GradprobeError: Scores that are no numbers, or a picture that the tokens do not cover.

    Source: DiffPrune, section 5.5 and Fig. 5.
    """
    images = vlm.vision_features(inputs).tokens
    if len(images) != 1:
        raise UsageError(f"a ranking is of one image; the inputs hold {len(images)}")
    tokens = images[0]
    n = len(tokens)
    if not 1 <= k <= n // 2:
        raise UsageError(f"--k {k} is not possible: the two ends of {n} tokens overlap; give --k 1 to --k {n // 2}")
    scores = _scores(tokens, scorer)
    ends = ends_of(scores, k)
    return Ranking(
        scores=scores.cpu().numpy(),
        top=ends[:k].cpu().numpy(),
        bottom=ends[k:].cpu().numpy(),
        similarity=cosines(tokens[None], ends[None])[0].cpu().numpy(),
        views=views_of(vlm, inputs, n),
        ranked_by=ranked_by,
    )


@torch.no_grad()
def _scores(tokens: Tensor, scorer: nn.Module | Tensor | None) -> Tensor:
    if isinstance(scorer, Tensor):
        return refuse_nan(scorer.to(tokens.device).double())
    if scorer is None:
        return refuse_nan(tokens.double().norm(dim=-1))
    like = next(scorer.parameters(), tokens)
    with frozen(scorer):
        scores = scorer(tokens[None].to(like)).double()[0]
    if not bool(scores.isfinite().all()):
        raise GradprobeError("the scorer gave scores that are no numbers; open the model in float32, or train it again")
    return scores


def scores_by(pruned: Pruner, inputs: Mapping[str, Any]) -> Tensor:
    """Return the scores by which a plan ranks the tokens of one image, ``(N,)``.

    Of a plan that keeps a set and ranks nothing: above 1 for a token that is kept, else below 1, in random order.

    Args:
        pruned: Model and plan.
        inputs: Of one image, with the text that its selectors read.

    Raises:
        UsageError: A selector reads something that the model does not have.
    """
    images = Images.of(pruned.vlm, inputs, attention=True)
    stage, n = pruned.plan.outside, len(images.features.tokens[0])
    if stage is not None and not pruned.plan.inside and (scores := images.scores(stage.selector)) is not None:
        return scores
    chance = Noise(0, (0,)).stream(Stream.RANKING).uniform(torch.Size([n]), like=torch.empty(0))[0]
    return chance.index_add(0, pruned.left(inputs)[0].cpu(), torch.ones(pruned.counts(n).last))


def views_of(vlm: VLM, inputs: Mapping[str, Any], n: int) -> tuple[View, ...]:
    """Return the pictures that the n tokens of an image cover, with the pixels that the tower read as people see them.

    Raises:
        GradprobeError: The tokens do not cover them.
    """
    tensors = {name: torch.as_tensor(inputs[name]).detach().cpu() for name in vlm.family.inputs if name in inputs}
    pixels = vlm.family.inputs[0]
    views = vlm.family.views(vlm.model.config, tensors | {pixels: tensors[pixels].float()})
    if sum(rows * columns for rows, columns in (view.grid for view in views)) != n:
        grids = " and ".join(f"{view.grid[0]} x {view.grid[1]}" for view in views)
        raise GradprobeError(f"{vlm.name} made {n} tokens of the image, which do not cover {grids}")
    return tuple(replace(view, image=_displayed(vlm, view.image)) for view in views)


def _displayed(vlm: VLM, pixels: Tensor) -> np.ndarray:
    """Undo the normalisation of ``(3, H, W)``; without a processor stretch the pixels to their range."""
    processor = getattr(vlm.processor, "image_processor", None)
    if processor is None:
        low, high = float(pixels.min()), float(pixels.max())
        return ((pixels - low) / max(high - low, 1e-9)).permute(1, 2, 0).double().numpy()
    return displayed(pixels[None], tuple(processor.image_mean), tuple(processor.image_std))[0]

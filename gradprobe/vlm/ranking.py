"""How a scorer ranks the visual tokens of one image, and how alike the first and the last of them are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.data.pixels import displayed
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.backbones import frozen
from gradprobe.nans import refuse_nan
from gradprobe.vlm.dimensions import Layout, layout_of
from gradprobe.vlm.model import VLM

NORM = "the length of a token"


@dataclass(frozen=True)
class View:
    """A picture that some of the visual tokens cover, in raster order.

    Attributes:
        title: which picture of the image it is; empty for the only one.
        image: as the model sees it, ``(H, W, 3)`` in [0, 1].
        grid: rows and columns of tokens.
        first: number of the token at the top left.
    """

    title: str
    image: np.ndarray
    grid: tuple[int, int]
    first: int


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ranking of the N visual tokens of an image, and the cosine similarities of its two ends.

    Attributes:
        scores: ``(N,)``, in the order in which the language model reads the tokens.
        top: the K tokens of the highest scores, the highest first, ``(K,)``.
        bottom: the K of the lowest scores, the lowest last, ``(K,)``.
        similarity: ``cos(x_i, x_j)`` of [top; bottom] before the projector, ``(2K, 2K)``.
        views: the pictures that the tokens cover.
        ranked_by: what gave the scores.
    """

    scores: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    similarity: np.ndarray
    views: tuple[View, ...]
    ranked_by: str

    def means(self) -> dict[str, float | None]:
        """Mean similarity of two different tokens within the top, within the bottom, and across; None with K = 1."""
        k = len(self.top)
        blocks = {"top": self.similarity[:k, :k], "bottom": self.similarity[k:, k:]}
        other = ~np.eye(k, dtype=bool)
        found = {name: float(block[other].mean()) if k > 1 else None for name, block in blocks.items()}
        return found | {"across": float(self.similarity[:k, k:].mean())}


def ranking(
    vlm: VLM, inputs: Mapping[str, Any], k: int, scorer: nn.Module | None = None, ranked_by: str = NORM
) -> Ranking:
    """Rank the visual tokens of one image.

    Args:
        vlm: the model.
        inputs: of one image, as the model's processor returns them; text is not needed.
        k: tokens at each end, 1..N/2.
        scorer: tokens ``(B, N, D)`` -> scores ``(B, N)``, as ``Pruner.scorer``; None: the length ``|x_i|`` of a token.
        ranked_by: what to call it.

    Raises:
        UsageError: not one image, or a K whose two ends would overlap.
        GradprobeError: scores that are no numbers, or a picture that the tokens do not cover.

    Source: DiffPrune, section 5.5 and Fig. 5.
    """
    seen = vlm.see(inputs)
    if len(seen.tokens) != 1:
        raise UsageError(f"a ranking is of one image; the inputs hold {len(seen.tokens)}")
    tokens = seen.tokens[0]
    n = len(tokens)
    if not 1 <= k <= n // 2:
        raise UsageError(f"--k {k} is not possible: the two ends of {n} tokens overlap; give --k 1 to --k {n // 2}")
    scores = _scores(tokens, scorer)
    order = scores.argsort(stable=True, descending=True)  # among equals the first come first, as when deployed
    ends = torch.cat([order[:k], order[-k:]])
    unit = nn.functional.normalize(tokens[ends].double(), dim=-1)
    views = _views(vlm, inputs)
    if sum(rows * columns for rows, columns in (view.grid for view in views)) != n:
        grids = " and ".join(f"{view.grid[0]} x {view.grid[1]}" for view in views)
        raise GradprobeError(f"{vlm.name} made {n} tokens of the image, which do not cover {grids}")
    return Ranking(
        scores=scores.cpu().numpy(), top=ends[:k].cpu().numpy(), bottom=ends[k:].cpu().numpy(),
        similarity=(unit @ unit.T).clamp(-1, 1).cpu().numpy(), views=views, ranked_by=ranked_by,
    )  # fmt: skip


@torch.no_grad()
def _scores(tokens: Tensor, scorer: nn.Module | None) -> Tensor:
    if scorer is None:
        return refuse_nan(tokens.double().norm(dim=-1))
    like = next(scorer.parameters(), tokens)
    with frozen(scorer):
        scores = scorer(tokens[None].to(like)).double()[0]
    if not bool(scores.isfinite().all()):
        raise GradprobeError("the scorer gave scores that are no numbers; open the model in float32, or train it again")
    return scores


def _views(vlm: VLM, inputs: Mapping[str, Any]) -> tuple[View, ...]:
    """The pixels that the tower read, put together as people see them."""
    config, pixels = vlm.model.config, torch.as_tensor(inputs["pixel_values"]).detach().float().cpu()
    if config.model_type == "qwen2_5_vl":
        return (_grouped(vlm, pixels, torch.as_tensor(inputs["image_grid_thw"])[0].tolist()),)
    if config.model_type == "llava_next":
        size = tuple(torch.as_tensor(inputs["image_sizes"])[0].tolist())
        return _tiled(vlm, pixels[0], layout_of(config, (int(size[0]), int(size[1]))))
    return (View("", _shown(vlm, pixels[0]), layout_of(config).grids[0], 0),)


def _tiled(vlm: VLM, pixels: Tensor, layout: Layout) -> tuple[View, ...]:
    """LLaVA-NeXT's overview, and its tiles laid together, as far as tokens cover them."""
    side, patch = pixels.shape[-1], vlm.model.config.vision_config.patch_size
    high, wide = (length // side for length in layout.seen)
    tiles = pixels[1 : 1 + high * wide].reshape(high, wide, 3, side, side).permute(2, 0, 3, 1, 4)
    whole = tiles.reshape(3, high * side, wide * side)
    overview, (rows, columns) = layout.grids
    top, left = (layout.seen[0] - rows * patch) // 2, (layout.seen[1] - columns * patch) // 2
    detail = whole[:, top : top + rows * patch, left : left + columns * patch]
    first = overview[0] * overview[1]
    return (
        View("overview", _shown(vlm, pixels[0]), overview, 0),
        View("tiles", _shown(vlm, detail), (rows, columns), first),
    )


def _grouped(vlm: VLM, pixels: Tensor, grid: list[int]) -> View:
    """Qwen's patches ``(P, 3 t h w)``, which come group by group, as one picture."""
    vision = vlm.model.config.vision_config
    side, time, group = vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size
    rows, columns = grid[1] // group, grid[2] // group
    frames = pixels.reshape(grid[0], rows, columns, group, group, 3, time, side, side)[0, ..., 0, :, :]
    image = frames.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, grid[1] * side, grid[2] * side)
    return View("", _shown(vlm, image), (rows, columns), 0)


def _shown(vlm: VLM, image: Tensor) -> np.ndarray:
    """Normalised pixels ``(3, H, W)`` as they look; without a processor stretched to what there is."""
    images = getattr(vlm.processor, "image_processor", None)
    if images is None:
        low, high = float(image.min()), float(image.max())
        return ((image - low) / max(high - low, 1e-9)).permute(1, 2, 0).double().numpy()
    return displayed(image[None], tuple(images.image_mean), tuple(images.image_std))[0]

"""Targets of the tower for patches without a digit: one word for all, or the texture of the patch itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.data.photos import patches_of, photos
from gradprobe.vlm.embedded import ID, NOTHING

SHARPNESS = 8.0  # of the tower's word scores: at the target, where they are 0 and 1, the loss is nearly 0
DIMENSIONS = 48  # of textures; fewer where the words leave fewer
LENGTH = 2.4  # of a texture; the sum of a digit's four words has length 2
POWER = 0.5  # to which deviations are evened out: 0 keeps the colour of a patch alone, 1 the noise too
ANALYSED = 512  # training pictures whose patches give the mean and the axes of textures
FIRST_ANALYSED = 700_000_000  # their first id, which no training reaches with seed 0
_SEED = 5  # of the directions that carry textures


class Background(Protocol):
    """Target embeddings of patches without a digit."""

    @property
    def weight(self) -> float:
        """Weight of such a patch in the tower's loss, since five of six are."""

    def of(self, images: np.ndarray) -> Tensor:
        """Return the target of each patch of normalised images, ``(B, 100, W)``."""

    def drawn(self, rows: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw targets as of random patches, ``(rows, count, W)``."""

    def score(self, tokens: Tensor) -> Tensor:
        """Return the score of a token as background, beside those as words, ``(B, 100, 1)``."""


@dataclass(frozen=True)
class OneWord:
    """The word ``NOTHING`` for every patch.

    Attributes:
        table: Words, ``(V, W)``.
        weight: See `Background`.
    """

    table: Tensor
    weight: float = 0.25

    def of(self, images: np.ndarray) -> Tensor:
        """Return the word for each patch."""
        return self.drawn(len(images), patches_of(images).shape[1], torch.Generator())

    def drawn(self, rows: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the word; nothing is random."""
        return self.table[ID[NOTHING]].expand(rows, count, -1)

    def score(self, tokens: Tensor) -> Tensor:
        """Return the word's own score."""
        return SHARPNESS * tokens @ self.table[[ID[NOTHING]]].T


@dataclass(frozen=True)
class Texture:
    """Whitened pixels of the patch itself, in directions that no word uses.

    ``t = length * normalise((x - mean) A diag(dev)^-power) Q``, of pixels x ``(192,)``, the first principal axes A of
    the patches of training pictures, their deviations, and orthonormal Q orthogonal to all words. Towers that were
    trained without such a target turned patches of photographs without a digit into nearly the same token.

    Attributes:
        mean: ``(192,)``.
        projection: ``A diag(dev)^-power``, ``(192, F)``.
        directions: Q, ``(F, W)``.
        bank: Targets of the analysed patches, ``(P, W)``.
        weight: See `Background`.
    """

    mean: Tensor
    projection: Tensor
    directions: Tensor
    bank: Tensor
    weight: float = 0.5

    @classmethod
    def fitted(cls, table: Tensor) -> Texture:
        """Analyse the patches of training pictures.

        Args:
            table: Words, ``(V, W)``, orthonormal.
        """
        ids = range(FIRST_ANALYSED, FIRST_ANALYSED + ANALYSED)
        drawn = photos("train", ids)
        patches = torch.from_numpy(patches_of(drawn.images)).double()
        flat = patches.flatten(0, 1)
        mean = flat.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((flat - mean).T))
        directions = _orthogonal_to(table)[:DIMENSIONS].float()
        largest = torch.arange(len(variances) - 1, len(variances) - 1 - len(directions), -1)
        projection = axes[:, largest] * variances[largest] ** (-POWER / 2)
        texture = cls(mean.float(), projection.float(), directions, torch.empty(0))
        outside = ~torch.from_numpy(drawn.relevant)
        return cls(texture.mean, texture.projection, directions, texture.of(drawn.images)[outside])

    def of(self, images: np.ndarray) -> Tensor:
        """Return the texture of each patch."""
        whitened = (torch.from_numpy(patches_of(images)) - self.mean) @ self.projection
        return LENGTH * F.normalize(whitened, dim=-1) @ self.directions

    def drawn(self, rows: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw textures of analysed patches."""
        return self.bank[torch.randint(len(self.bank), (rows, count), generator=generator)]

    def score(self, tokens: Tensor) -> Tensor:
        """Return the score midway between a wrong and a right word."""
        return torch.full_like(tokens[..., :1], SHARPNESS / 2)


def _orthogonal_to(table: Tensor) -> Tensor:
    """Return orthonormal directions orthogonal to the rows of a table, ``(W - V, W)``, in an arbitrary, fixed basis."""
    words = table.detach().double()
    generator = torch.Generator().manual_seed(_SEED)
    others = torch.randn(words.shape[1] - len(words), words.shape[1], generator=generator, dtype=torch.float64)
    return torch.linalg.qr(torch.cat([words, others]).T).Q.T[len(words) :].contiguous()

"""Conversion of images to patches and back, and to displayable pixels."""

import numpy as np
import torch
from torch import Tensor


def to_patches(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels of each patch, ``(B, 3, H, W) -> (B, N, 3 h w)``, in the order of a transformer's tokens.

    Args:
        images: Images whose sides are multiples of the patch's.
        size: Height h and width w of a patch.

    Example:
        >>> images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
        >>> patches = to_patches(images, (2, 3))
        >>> patches.shape, torch.equal(to_images(patches, (2, 3), (4, 6)), images)
        (torch.Size([2, 4, 18]), True)
    """
    b, channels, height, width = images.shape
    h, w = size
    cells = images.reshape(b, channels, height // h, h, width // w, w)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(b, (height // h) * (width // w), channels * h * w)


def to_images(patches: Tensor, size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Return the images made of these patches, ``(B, N, 3 h w) -> (B, 3, H, W)``.

    Args:
        patches: Patches as `to_patches` returns them.
        size: Height h and width w of a patch.
        shape: Height H and width W of the images.
    """
    (h, w), (height, width) = size, shape
    cells = patches.reshape(len(patches), height // h, width // w, -1, h, w)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, height, width)


def displayed(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return normalised images for display: ``x std + mean`` clipped to [0, 1], ``(B, 3, H, W) -> (B, H, W, 3)``."""
    plain = images * torch.tensor(std).view(1, -1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1)
    return plain.clamp(0, 1).permute(0, 2, 3, 1).double().numpy()

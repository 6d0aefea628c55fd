"""Convolutional patch embedding of the embedded models."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvStem(nn.Module):
    """Convolutions from pixels to patch tokens, ``(B, 3, 8H, 8W) -> (B, H W, D)``: a timm ``embed_layer``.

    Three 3x3 convolutions of stride 2 cover 15 x 15 pixels about the middle (pixel 8i + 3) of each 8 x 8 patch; one
    more 3x3 convolution adds the eight neighbours. Early convolutions make small transformers trainable: Xiao et al.
    2021, "Early convolutions help transformers see better". Each token is normalised to mean 0 and RMS 1; otherwise
    training would make the tokens that matter longer, and the norm alone would identify them.

    Args:
        img_size: Pixels per side, a multiple of 8.
        patch_size: Pixels per side of a patch; must be 8.
        in_chans: Number of colour channels.
        embed_dim: Token width D, a multiple of 4.
        bias: Flag for a bias of the last convolution.
        dynamic_img_pad: Ignored argument of timm; the image size is fixed.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Example:
        >>> ConvStem(112, 8, 3, 32)(torch.zeros(2, 3, 112, 112)).shape
        torch.Size([2, 196, 32])
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if patch_size != 8 or img_size % 8:
            raise ValueError(f"patch_size {patch_size} must be 8 (three halvings), img_size {img_size} a multiple of 8")
        self.img_size, self.patch_size = (img_size, img_size), (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.conv1 = nn.Conv2d(in_chans, embed_dim // 4, 3, stride=2, device=device, dtype=dtype)
        self.conv2 = nn.Conv2d(embed_dim // 4, embed_dim // 2, 3, stride=2, device=device, dtype=dtype)
        self.conv3 = nn.Conv2d(embed_dim // 2, embed_dim, 3, stride=2, padding=1, device=device, dtype=dtype)
        self.blend = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens ``(B, N, D)`` of images ``(B, 3, H, W)``, row by row."""
        # Padding on the far side centres a token on its patch; padding on both sides would centre it on a corner.
        x = F.relu(self.conv1(F.pad(x, (0, 1, 0, 1))))
        x = F.relu(self.conv2(F.pad(x, (0, 1, 0, 1))))
        x = F.relu(self.conv3(x))
        x = self.blend(x).flatten(2).transpose(1, 2)
        return F.layer_norm(x, x.shape[-1:])

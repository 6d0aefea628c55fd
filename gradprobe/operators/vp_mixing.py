"""Variance-preserving mixing with Gaussian noise, shared by the two throttles that use it."""

import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import UsageError


def check_sigma(sigma: float | str, name: str) -> None:
    """Refuse a scale of the noise that means nothing.

    Raises:
        UsageError: neither ``rms``, ``unit`` nor a number >= 0.
    """
    if sigma not in ("rms", "unit") and not (isinstance(sigma, (int, float)) and sigma >= 0):
        raise UsageError(f"{name}:sigma={sigma}: possible are sigma=rms, sigma=unit or a number >= 0")


def root(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0.

    The derivative of sqrt at 0 is infinite, but that of a soft top-K weight falls faster, so the product's limit is 0.
    """
    flat = x <= 0  # a NaN is not: it stays visible
    return torch.where(flat, torch.zeros_like(x), torch.where(flat, torch.ones_like(x), x).sqrt())


def mix(patches: Tensor, signal: Tensor, weights: Tensor, sigma: float | str, noise: Noise) -> Tensor:
    """Signal and noise in the proportion of the weight: ``sqrt(alpha) y + sqrt(1 - alpha) sigma eps``.

    Args:
        patches: the tokens whose scale the noise takes, ``(B, N, D)``.
        signal: what is mixed with it, ``(B, N, D)``.
        weights: alpha, ``(B, N)``.
        sigma: ``rms`` (each token's own root mean square, detached), ``unit`` or a number.
        noise: where eps comes from.
    """
    eps = noise.normal(patches.shape[1:], like=patches)
    if sigma == "rms":
        eps = eps * patches.detach().square().mean(-1, keepdim=True).sqrt()
    elif sigma != "unit":
        eps = eps * float(sigma)
    alpha = weights[..., None]
    return root(alpha) * signal + root(1 - alpha) * eps

"""Variance-preserving mixing with Gaussian noise, shared by the two throttles that use it."""

import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import UsageError
from gradprobe.operators.widened import widened


def check_sigma(sigma: float | str, name: str) -> None:
    """Refuse an impossible scale of the noise.

    Raises:
        UsageError: It is neither ``rms``, ``unit`` nor a number >= 0.
    """
    if sigma not in ("rms", "unit") and not (isinstance(sigma, (int, float)) and 0 <= sigma < float("inf")):
        raise UsageError(f"{name}:sigma={sigma}: possible are sigma=rms, sigma=unit or a number >= 0")


def root(x: Tensor) -> Tensor:
    """Return the square root, with derivative 0 at 0.

    The derivative of sqrt at 0 is infinite, but that of a soft top-K weight falls faster, so their product tends to 0.
    """
    flat = x <= 0  # false for NaN, which so stays visible
    return torch.where(flat, torch.zeros_like(x), torch.where(flat, torch.ones_like(x), x).sqrt())


def mix(patches: Tensor, signal: Tensor, weights: Tensor, sigma: float | str, noise: Noise) -> Tensor:
    """Mix signal and noise in proportion to the weight: ``sqrt(alpha) y + sqrt(1 - alpha) sigma eps``.

    Args:
        patches: Tokens that set the scale of the noise, ``(B, N, D)``.
        signal: Tokens y, ``(B, N, D)``.
        weights: Weights alpha, ``(B, N)``.
        sigma: Scale of the noise: ``rms`` (root mean square of each token, detached), ``unit`` or a number.
        noise: Source of eps.
    """
    eps = noise.normal(patches.shape[1:], like=patches)
    if sigma == "rms":
        wide = widened(patches.detach())  # squares overflow float16
        eps = eps * wide.square().mean(-1, keepdim=True).sqrt().to(eps.dtype)
    elif sigma != "unit":
        eps = eps * float(sigma)
    alpha = weights[..., None]
    return root(alpha) * signal + root(1 - alpha) * eps

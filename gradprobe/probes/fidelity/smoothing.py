"""One block of draws of the smoothed deployed loss: forward passes of K tokens, and the gradient that follows."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream
from gradprobe.deferred import deferring
from gradprobe.probes.contract import Subject
from gradprobe.probes.fidelity import BLOCK, ReferenceSettings
from gradprobe.probes.fidelity.descent import deployed_losses
from gradprobe.training.memory import Limit

PARTS = 4  # independent estimates: draw m belongs to part m mod 4
Array = NDArray[np.float64]
Parts = NDArray[np.float32]


def expected(scores: Tensor, perturbed: Tensor, kept: Tensor, sigma: Tensor) -> Tensor:
    """Return the expectation of z where ``perturbed = scores + sigma z``, given the tokens kept and the threshold.

    The threshold b is the largest score that is not kept; with it given, the other tokens are independent Gaussians,
    cut off at ``c_i = (b - s_i) / sigma``: ``E z_i = phi(c_i) / (1 - Phi(c_i))`` where kept,
    ``-phi(c_i) / Phi(c_i)`` where not, and ``c_i`` for the token at the threshold. A loss that depends on the kept set
    alone has the same covariance with it as with z, and its estimate less variance (Rao and Blackwell).

    Args:
        scores: ``(..., N)``.
        perturbed: ``(..., N)``.
        kept: 0 or 1, ``(..., N)``; not all 1.
        sigma: > 0, ``(..., 1)``.

    Example:
        >>> s, z = torch.zeros(3), torch.tensor([1.5, -0.2, 0.0])
        >>> expected(s, s + z, torch.tensor([1.0, 0.0, 0.0]), torch.ones(1))
        tensor([ 0.7979, -0.7979,  0.0000])
    """
    threshold, last = perturbed.masked_fill(kept > 0, -torch.inf).max(-1, keepdim=True)
    cut = (threshold - scores) / sigma
    sign = 2 * kept - 1
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(sign * cut / math.sqrt(2))
    return (sign * hazard).scatter(-1, last, cut.gather(-1, last))


def covariance(losses: Array, z: Array) -> Array:
    """Return the covariance of loss and z over antithetic pairs, ``mean (J - mean of the other pairs' J) z``, unbiased.

    Args:
        losses: of D pairs of draws, ``(D, 2, ...)``, D >= 2.
        z: ``(D, 2, ..., N)``.

    Returns:
        ``(..., N)``.
    """
    pairs = losses.mean(1)
    others = (pairs.sum(0) - pairs) / (len(pairs) - 1)
    return ((losses - others[:, None])[..., None] * z).mean((0, 1))


def block_gradients(
    subject: Subject, batch: Batch, scores: Tensor, settings: ReferenceSettings, first: int, limit: Limit
) -> Parts:
    """Return each part's estimate of ``grad J_sigma`` from one block of draws, ``(S, H, B, N)``.

    Args:
        subject: frozen model, data and tokens kept.
        batch: B images.
        scores: ``(B, N)``.
        settings: sigmas, S of them, and the seed of the noise.
        first: first draw of the block.
        limit: rows of an encoder call that memory holds.
    """
    (b, n), sigmas = scores.shape, settings.sigmas
    noise = Noise(settings.seed, batch.ids, generator=subject.task.generator).stream(Stream.SMOOTHING)
    signed = torch.tensor([[sigmas], [[-sigma for sigma in sigmas]]]).to(scores, non_blocking=True)
    signed = signed.reshape(2, -1, 1, 1)
    images = torch.arange(b).repeat(2 * len(sigmas))
    losses, z = [], []
    with deferring(), torch.no_grad():
        for m in range(first, first + BLOCK):
            perturbed = scores + signed * noise.draw(m).normal((n,), like=scores)  # (2, S, B, N)
            deployed, kept = deployed_losses(subject.task, batch, subject.k, perturbed.flatten(0, 2), images, limit)
            losses.append(deployed.reshape(perturbed.shape[:-1]))
            z.append(expected(scores, perturbed, kept.reshape(perturbed.shape), signed.abs()))
        all_losses, all_z = (torch.stack(x).cpu().double().numpy() for x in (losses, z))
    parts = [covariance(all_losses[h::PARTS], all_z[h::PARTS]) for h in range(PARTS)]
    gradients = np.stack(parts, 1) / np.array(sigmas)[:, None, None, None]
    return (gradients - gradients.mean(-1, keepdims=True)).astype(np.float32)  # J has no common mode

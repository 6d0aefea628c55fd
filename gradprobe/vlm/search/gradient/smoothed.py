"""Gradient of the deployed loss smoothed over whole numbers of tokens (numpy and scipy; no torch).

    L_sigma(K) = E_z[L(whole(K + sigma z))],  z standard Gaussian, sigma in tokens,

K the counts of the layers behind the first. It is the smoothed objective of `gradprobe.probes.fidelity`, with counts in
the place of scores. Shapes: C counts, D antithetic pairs of draws, B batches.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


def expected_draws(counts: Array, drawn: Array, sigma: float, tokens: int) -> Array:
    """Return the expectation of z given the whole counts that it leads to, ``(..., C)``.

    A loss of whole counts has the same covariance with it as with z, and its estimate less variance (Rao and
    Blackwell). Counts are cut to 1..N, so that the first and the last of them stand for a half line.

    Args:
        counts: K, ``(C,)``.
        drawn: Whole counts of the draws before layers are held below the ones before, ``(..., C)``.
        sigma: In tokens.
        tokens: N.

    Example:
        >>> expected_draws(np.array([5.0]), np.array([[5], [6], [9]]), 1.0, 9).round(2).tolist()
        [[0.0], [0.92], [3.75]]
    """
    low = np.where(drawn <= 1, -np.inf, (drawn - 0.5 - counts) / sigma)
    high = np.where(drawn >= tokens, np.inf, (drawn + 0.5 - counts) / sigma)
    mirrored = low > 0  # the tail with the smaller numbers, which lose no digits
    near, far = np.where(mirrored, -high, low), np.where(mirrored, -low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (_density(near) - _density(far)) / (ndtr(far) - ndtr(near))
    return np.where(mirrored, -mean, mean)


def moments(counts: Array, sigma: float, tokens: int) -> Array:
    """Return the second moment of `expected_draws`, ``(C,)``: a little below 1, and less for counts near 1 or N."""
    every = np.arange(1, tokens + 1)[:, None] * np.ones(len(counts))
    low = np.where(every == 1, -np.inf, (every - 0.5 - counts) / sigma)
    high = np.where(every == tokens, np.inf, (every + 0.5 - counts) / sigma)
    share = ndtr(high) - ndtr(low)
    means = np.where(share > 0, expected_draws(counts, every, sigma, tokens), 0)
    return (share * np.nan_to_num(means) ** 2).sum(0)


def pair_estimates(losses: Array, z: Array, moment: Array) -> Array:
    """Return an unbiased estimate of the covariance of losses and z from each antithetic pair of draws, ``(D, B, C)``.

    A pair is counted from a linear fit to the others, whose own covariance ``moment * slope`` is known: losses of a few
    counts are nearly linear in them, and without it the draws of one count blur the slope in another. Estimates of two
    pairs depend on each other through their fits alone, to second order in 1/D.

    Args:
        losses: ``(D, 2, B)``.
        z: ``(D, 2, C)``, with independent components of this second moment.
        moment: ``(C,)``.
    """
    d, _, c = z.shape
    flat_z, flat = z.reshape(2 * d, c), losses.reshape(2 * d, -1)
    estimates = np.empty((d, flat.shape[1], c))
    for pair in range(d):
        rest = np.delete(np.arange(2 * d), [2 * pair, 2 * pair + 1])
        mean_z, mean = flat_z[rest].mean(0), flat[rest].mean(0)
        apart = flat_z[rest] - mean_z
        # a ridge, which does not bias an estimate and bounds the slope where draws are as few as counts
        slope = np.linalg.solve(apart.T @ apart + c * np.eye(c), apart.T @ (flat[rest] - mean))
        left = losses[pair] - (mean + (z[pair] - mean_z) @ slope)
        estimates[pair] = left.T @ z[pair] / 2 + (moment[:, None] * slope).T
    return estimates


def _density(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

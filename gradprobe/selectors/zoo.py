"""Diversity weighted by the projector's sensitivity, measured by finite differences."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.core import Noise
from gradprobe.selectors.divprune import cosine_distances, farthest_first

DRAWS, STEP = 64, 0.01  # of the paper: directions, and length of a step along each
FLAT = 1e-4  # relative range of sensitivities below which nothing but rounding tells tokens apart


def zoo(tokens: Tensor, project: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
    """Order tokens by diversity times sensitivity.

    ``S_i = 1 / (2 h m) sum_l |P(x_i + h u_l) - P(x_i - h u_l)|`` over m unit directions u, the same for all tokens of
    an image; ``i_1 = argmax_i S_i`` and then the greedy order of `farthest_first` with S scaled to 0..1 as weights. A
    linear projector is equally sensitive everywhere: then the weights are all 1.

    Source: Kim et al., ZOO-Prune (arXiv 2509.24837); without the low-rank projector of its released code.

    Args:
        tokens: Tokens before the projector, ``(B, N, D)``.
        project: The projector P, row by row.
        noise: Noise of the directions.

    Returns:
        Token numbers ``(B, N)``, the first chosen first.

    Example:
        >>> tokens = torch.tensor([[[0.0], [3.0], [-2.0]]])
        >>> zoo(tokens, lambda x: torch.cat([x**2, x], -1), Noise(0, (0,)))[0, 0].item()
        1
    """
    sensitivity = sensitivities(tokens, project, noise)
    low, high = sensitivity.aminmax(dim=1, keepdim=True)
    scaled = (sensitivity - low) / (high - low).clamp(min=1e-12)
    weights = torch.where(high - low < FLAT * high, torch.ones_like(scaled), scaled)
    return farthest_first(cosine_distances(project(tokens)), weights.argmax(-1), weights)


def sensitivities(tokens: Tensor, project: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
    """Return S, ``(B, N)`` float64."""
    directions = F.normalize(noise.normal((DRAWS, tokens.shape[-1]), like=tokens), dim=-1)
    total = torch.zeros(tokens.shape[:2], dtype=torch.float64, device=tokens.device)
    for direction in directions.unbind(1):
        step = STEP * direction[:, None]
        total += (project(tokens + step) - project(tokens - step)).double().norm(dim=-1)
    return total / (2 * STEP * DRAWS)

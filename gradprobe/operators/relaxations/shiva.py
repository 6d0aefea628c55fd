"""Shiva-DiT's residual-aware straight-through estimator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.errors import UsageError, check_positive
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class Shiva:
    """Top-K of noisy scores forward; backward through a soft rank, with the sign turned for dropped tokens.

    With ``t = s + sigma z``, the soft rank ``r_i = 1 + sum_{j != i} sigmoid((t_j - t_i) / tau_r)`` and
    ``pi_i = sigmoid((K - r_i) / tau_s)``, the gradient of pi_i is taken as ``dL/dm_i`` if the token is kept and
    ``-dL/dm_i`` if it is dropped. In the paper a dropped token bypasses the block on the residual path, so that
    ``dL/dm_i = <dL/dx_i, x_i>`` belongs to that path, and the turned sign rewards a token for not needing the block.
    Here dropped tokens have a gradient only with throttles that send them on (``zero``, ``dynamicvit``), and there is
    no residual path: ``dL/dm_i`` is the change of the loss as the token *enters*, so that ``-dL/dm_i`` opposes descent
    for every dropped token. This is the paper's formula outside the paper's architecture, as published; do not read
    ``shiva+zero`` as a result about Shiva-DiT. The cost is O(N^2).

    Gradient: biased; for dropped tokens against descent. Source: Shiva-DiT, arXiv 2602.05605, Eq. 5 to 7.

    Attributes:
        sigma: Scale of the Gaussian noise on the scores, >= 0.
        tau_r: Temperature of the ranks in units of the scores, > 0; not annealed.
        tau_s: Temperature of the selection in ranks, > 0; not annealed.
    """

    sigma: float = 1.0
    tau_r: float = 1.0
    tau_s: float = 1.0
    suited = "zero"

    def __post_init__(self) -> None:
        check_positive("shiva", "tau_r", self.tau_r)
        check_positive("shiva", "tau_s", self.tau_s)
        if not 0 <= self.sigma < float("inf"):
            raise UsageError(f"shiva:sigma={self.sigma:g}: the scale of the noise must be 0 or more, and finite")

    @property
    def about(self) -> About:
        """Promise with these fields."""
        formula = "alpha = topK(s + sigma z); backward through sigmoid((K - soft rank) / tau_s)"
        source = "Shiva-DiT, arXiv 2602.05605"
        return About(formula, "biased", source, ("shiva",), stochastic=self.sigma > 0, budget=1e-9)

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        wide = widened(scores)
        t = wide + self.sigma * noise.normal(scores.shape[1:], like=wide)
        mask = top_k_mask(t, k)
        rank = torch.sigmoid((t[:, None, :] - t[:, :, None]) / self.tau_r).sum(-1) + 0.5  # the token itself: 0.5
        soft = torch.sigmoid((k - rank) / self.tau_s)
        surrogate = torch.where(mask > 0, soft, -soft)
        return (mask + (surrogate - surrogate.detach())).to(scores.dtype)

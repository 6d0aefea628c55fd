"""Diversity weighted by the projector's sensitivity, measured by finite differences or exact."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.errors import UsageError, check_positive
from gradprobe.nans import refuse_nan
from gradprobe.selectors.exact import jacobian_norm
from gradprobe.selectors.farthest import directions_of, farthest_first, farthest_flops, scores_of
from gradprobe.selectors.precision import in_precision
from gradprobe.view import Kept, SelectorAbout, Sizes, Unavailable, View

FLAT = 1e-4  # relative range of sensitivities below which nothing but rounding tells tokens apart


@dataclass(frozen=True)
class Zoo:
    """Keep K tokens by diversity times sensitivity of the projector P.

    ``S_i = 1 / (2 h m) sum_l |P(x_i + h u_l) - P(x_i - h u_l)|`` over m unit directions u, the same for all tokens of
    an image; ``i_1 = argmax_i S_i``, ``i_{m+1} = argmax_i w_i min_{j <= m} d_{i i_j}`` with w the sensitivities scaled
    to 0..1 and ``d = 1 - cos`` of projected tokens. The choices for all K are nested. A linear projector is equally
    sensitive everywhere: then w = 1.

    ``exact``: ``S_i = |dP(x_i) / dx|_F / sqrt(D)``, to which the draws converge but for the order of mean and root, for
    projectors of two linear layers; about one projector pass in place of 2 m.

    Source: Kim et al., ZOO-Prune (CVPR 2026); its own budgets are 64, 128 and 192 of 576. Left out: the low-rank
    projector of its released code, and the choice tile by tile in LLaVA-NeXT. Done otherwise: differences are computed
    in float32 (in the released code in float16, where most of a step is rounded away). Default positions: compact.

    Attributes:
        draws: m, number of directions.
        step: h, length of a step along each.
        exact: Exact sensitivities; the other two play no part then.

    Example:
        >>> from gradprobe.core import Noise
        >>> tokens = torch.tensor([[[0.0], [3.0], [-2.0]]])
        >>> view = View(Noise(0, (0,)), tokens, projector=lambda x: torch.cat([x**2, x], -1))
        >>> Zoo()(view, 1).index.tolist()
        [[1]]
    """

    draws: int = 64
    step: float = 0.01
    exact: bool = False
    about: ClassVar[SelectorAbout] = SelectorAbout(
        "argmax_i S_i, then argmax_i S_i min_{j chosen} d_ij, S_i = E_u |P(x_i + h u) - P(x_i - h u)| / (2 h)",
        "ZOO-Prune, CVPR 2026, arXiv 2509.24837",
        ("zoo-prune",),
        positions="compact",
    )

    def __post_init__(self) -> None:
        check_positive("zoo", "step", self.step)
        if self.draws < 1:
            raise UsageError(f"zoo:draws={self.draws}: at least one direction is needed, e.g. zoo:draws=64")

    def scores(self, view: View) -> Tensor:
        """Return N for the token that comes first, 1 for the one that comes last, ``(B, N)``."""
        return scores_of(self._order(view, view.shape[1]))

    def __call__(self, view: View, k: int) -> Kept:
        """Return the first K tokens of the order."""
        return Kept(self._order(view, k).sort(1).values)

    def sensitivities(self, view: View) -> Tensor:
        """Return S, ``(B, N)`` float64.

        Raises:
            Unavailable: There is no projector, or none whose sensitivity is known exactly.
        """
        tokens = view.features
        if view.projector is None:
            raise Unavailable("zoo needs a projector, whose sensitivity it measures, and there is none here")
        if self.exact:
            return jacobian_norm(view.projector, tokens).double() / tokens.shape[-1] ** 0.5
        wide = torch.promote_types(tokens.dtype, torch.float32)
        project = in_precision(view.projector, wide)
        if project is None:
            project = view.project
        else:
            tokens = tokens.to(wide)
        directions = F.normalize(view.noise.normal((self.draws, tokens.shape[-1]), like=tokens), dim=-1)
        total = torch.zeros(tokens.shape[:2], dtype=torch.float64, device=tokens.device)
        for direction in directions.unbind(1):
            step = self.step * direction[:, None]
            total += (project(tokens + step) - project(tokens - step)).double().norm(dim=-1)
        return total / (2 * self.step * self.draws)

    def flops(self, sizes: Sizes, k: int) -> int:
        """Return the FLOPs of the projector's passes and of N pairs of tokens a step.

        The matrix of `gradprobe.selectors.exact.jacobian_norm`, computed once a model, is left out.
        """
        hidden = sizes.projector // (2 * (sizes.dim + sizes.width))
        sensitivity = 2 * hidden * (sizes.dim + hidden) if self.exact else 2 * self.draws * sizes.projector
        pairs = farthest_flops(sizes.n, sizes.width, k, isolated=False)
        return sizes.n * (sensitivity + sizes.projector) + pairs

    def _order(self, view: View, k: int) -> Tensor:
        sensitivity = refuse_nan(self.sensitivities(view))
        low, high = sensitivity.aminmax(dim=1, keepdim=True)
        scaled = (sensitivity - low) / (high - low).clamp(min=1e-12)
        weights = torch.where(high - low <= FLAT * high, torch.ones_like(scaled), scaled)
        return farthest_first(directions_of(view.projected), weights.argmax(-1), k, weights)

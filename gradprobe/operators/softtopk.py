"""Budgeted soft top-K: one threshold, one Jacobian, four CDFs.

The weights are ``alpha_i = F((s_i - b) / tau)`` with the threshold b such that they sum to K. Inside, everything is
float64 and measured from the *anchor* c, the ceil(K)-th largest score: ``t_i = (s_i - c) / tau``, ``x_i = t_i - delta``
and ``b = c + tau delta``. Near the threshold t keeps all its digits, however large the scores or small tau.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters  # there is no public way
from torch.nn.functional import logsigmoid

from gradprobe.deferred import refuse
from gradprobe.errors import GradprobeError, UsageError, nearest

Curve = Callable[[Tensor], Tensor]

# Budgets nearer to 0 or N than this share of N are solved as this share; at 0 and N the weights are set exactly.
EDGE = 1e-12
TINY = torch.finfo(torch.float64).tiny
MOST_STEPS = 64  # of Newton's method and bisection


@dataclass(frozen=True)
class _Budget:
    """State of the threshold search, for each row."""

    t: Tensor  # (..., N), ascending, 0 at the anchor; the others are (..., 1)
    k: Tensor
    kept: Tensor  # ceil(K): the anchor and those above it
    anchor: Tensor  # its index in t
    gap: Tensor  # from the next lower t to the anchor; infinite if there is none


def soft_topk(scores: Tensor, k: float | Tensor, tau: float | Tensor = 1.0, cdf: str = "laplace") -> Tensor:
    """Return weights in [0, 1] that rise with the score and sum to exactly K.

    ``alpha_i = F((s_i - b) / tau)`` with b such that ``sum_i alpha_i = K``; for tau -> 0 this is hard top-K, where ties
    share. With f = F' and q = f / sum f: ``d alpha / d s = (diag f - f q^T) / tau``, ``d alpha / d K = q`` and
    ``d alpha / d tau = -(d alpha / d s) s / tau``; exact in every order, also under ``torch.func`` (but forward over
    forward is refused: torch itself gets it wrong). Where all weights are 0 or 1 the gradient is zero, never NaN.

    Args:
        scores: Scores ``(..., N)`` of any floating dtype; rows are independent. A row with a NaN or an infinity gives
            NaN weights.
        k: Budget between 0 and N, whole or not: a number, or a tensor that broadcasts to ``(...,)``.
        tau: Temperature > 0, in units of the scores: a number, or a tensor that broadcasts to ``(...,)``.
        cdf: Function F: ``laplace`` (LapSum, closed form), ``logistic`` (entropic optimal transport with two anchors),
            ``gaussian`` (probit) or ``linear`` (``clip(x + 1/2, 0, 1)``, the projection onto the capped simplex: exact
            zeros and ones).

    Returns:
        Weights alpha ``(..., N)`` in the dtype of the scores; they are computed in float64.

    Raises:
        UsageError: Scores are not floating or have no tokens, K is outside 0..N, tau is not a positive number, the CDF
            is unknown, or shapes do not fit.
        GradprobeError: Forward-mode differentiation of forward-mode differentiation.

    Source:
        DiffPrune, Eq. 4; LapSum, arXiv 2503.06242, for Laplace; SOFT top-k, arXiv 2002.06504, for logistic.

    Example:
        >>> alpha = soft_topk(torch.tensor([3.0, 1.0, 2.0, 0.0]), 2, tau=0.1)
        >>> alpha.round(decimals=3)
        tensor([1.0000, 0.0030, 0.9970, 0.0000])
        >>> soft_topk(torch.zeros(4), 1.5, cdf="linear")
        tensor([0.3750, 0.3750, 0.3750, 0.3750])
    """
    if cdf not in CDFS:
        raise UsageError(f"no CDF {cdf!r}; {nearest(cdf, CDFS)}")
    if not scores.is_floating_point():
        raise UsageError(f"soft top-K of {scores.dtype} scores; convert them, for instance scores.float()")
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise UsageError(f"soft top-K of scores of shape {tuple(scores.shape)}; give (..., N) with N >= 1")
    if isinstance(k, Tensor) or isinstance(tau, Tensor):
        checked = False  # under torch.func only forward can read their values
    else:
        checked = True
        if problem := _problem(scores.shape[-1], k, k, tau, tau):
            raise UsageError(problem)
    return _SoftTopK.apply(scores, _column(k, scores, "k"), _column(tau, scores, "tau"), cdf, checked)[0]


def _column(value: float | Tensor, scores: Tensor, name: str) -> Tensor:
    """Return a number or a ``(...,)`` tensor as a float64 column ``(..., 1)`` that fits the scores."""
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=torch.float64, device=scores.device)  # a copy would wait for a GPU
    try:
        return value.to(scores.device, torch.float64, non_blocking=True).unsqueeze(-1).expand(*scores.shape[:-1], 1)
    except RuntimeError as error:
        shape = tuple(scores.shape[:-1])
        raise UsageError(f"{name} of shape {tuple(value.shape)}; give a number or one that fits {shape}") from error


def _problem(n: int, least: float, most: float, coldest: float, hottest: float) -> str:
    """Return the reason why budgets or temperatures are not possible; empty if they are."""
    for k in (least, most):
        if not 0 <= k <= n:
            return f"k={k:g} is no budget for {n} tokens; give 0 <= k <= {n}"
    for tau in (coldest, hottest):
        if not 0 < tau < math.inf:
            return f"tau={tau:g} is no temperature; give a number > 0, such as tau=0.1"
    return ""


class _SoftTopK(torch.autograd.Function):
    """Weights, and the delta that they are computed from.

    The derivative is a formula in delta, and delta is an output with its own derivative, so every order is exact. The
    anchor is a constant, since a shift of all scores does not change the weights.
    """

    @staticmethod
    def forward(scores: Tensor, k: Tensor, tau: Tensor, cdf: str, checked: bool) -> tuple[Tensor, Tensor, Tensor]:
        n = scores.shape[-1]
        if not checked and k.numel():
            wrong = ~((k >= 0) & (k <= n) & (tau > 0) & (tau < math.inf))
            refuse(wrong, lambda _: UsageError(_problem(n, *torch.stack([*k.aminmax(), *tau.aminmax()]).tolist())))
        delta, anchor = _solve(scores, k.clamp(EDGE * n, n - EDGE * n), tau, CDFS[cdf])
        shift = delta.masked_fill(k <= 0, math.inf).masked_fill_(k >= n, -math.inf)  # exact zeros and ones
        alpha = CDFS[cdf].cdf((scores.double() - anchor).div_(tau).sub_(shift))
        return alpha.to(scores.dtype), delta, anchor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        scores, k, tau, ctx.cdf, *_ = inputs
        _, delta, anchor = output
        ctx.mark_non_differentiable(anchor)
        ctx.save_for_backward(scores, k, tau, delta, anchor)
        ctx.save_for_forward(scores, k, tau, delta, anchor)

    @staticmethod
    def backward(ctx: Any, grad_alpha: Tensor, grad_delta: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scores, _, tau, *_ = ctx.saved_tensors
        t, q, mass = _local(ctx)
        v = grad_alpha.double()
        mean = (q * v).sum(-1, keepdim=True)
        grad_t = q * (mass * (v - mean) + grad_delta)
        grad_tau = -(grad_t * t).sum(-1, keepdim=True) / tau if ctx.needs_input_grad[2] else None
        grad_k = mean - grad_delta / mass.clamp(min=TINY) if ctx.needs_input_grad[1] else None
        return (grad_t / tau).to(scores.dtype), grad_k, grad_tau, None, None

    @staticmethod
    def jvp(ctx: Any, d_scores: Tensor | None, d_k: Tensor | None, d_tau: Tensor | None, *_: None) -> tuple:
        if sum(level.key().name == "Jvp" for level in retrieve_all_functorch_interpreters()) > 1:
            raise GradprobeError(  # github.com/pytorch/pytorch/issues/197867: silently zero
                "soft top-K was asked for forward over forward differentiation, which torch gets wrong for custom"
                " functions; use torch.func.hessian or jacfwd(jacrev(f))"
            )
        scores, _, tau, *_ = ctx.saved_tensors
        t, q, mass = _local(ctx)
        d_t = torch.zeros_like(t) if d_scores is None else d_scores.double() / tau
        if d_tau is not None:
            d_t = d_t - t * d_tau / tau
        d_k = torch.zeros_like(tau) if d_k is None else d_k
        mean = (q * d_t).sum(-1, keepdim=True)
        d_alpha = q * (mass * (d_t - mean) + d_k)
        return d_alpha.to(scores.dtype), mean - d_k / mass.clamp(min=TINY), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple:
        """Map over one more batch dimension, in front: rows are independent."""
        rows = [
            x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(inputs[:3], in_dims[:3], strict=True)
        ]
        return _SoftTopK.apply(*rows, *inputs[3:]), (0, 0, 0)


def _local(ctx: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, q = f / sum f (by logarithms, so also where f underflows) and sum f (0 at the budgets 0 and N)."""
    scores, k, tau, delta, anchor = ctx.saved_tensors
    t = (scores.double() - anchor) / tau
    log_f = CDFS[ctx.cdf].log_density(t - delta)
    mass = log_f.logsumexp(-1, keepdim=True).exp()
    return t, log_f.softmax(-1), torch.where((k > 0) & (k < scores.shape[-1]), mass, 0.0 * mass)


def _solve(scores: Tensor, k: Tensor, tau: Tensor, family: "_Family") -> tuple[Tensor, Tensor]:
    """Return delta and the anchor, ``(..., 1)`` each: the same bits for any order of the scores."""
    rows = _ascending(scores).double()
    kept = k.ceil()
    at = (rows.shape[-1] - kept).long()
    ends = rows[..., :1] + rows[..., -1:]  # sorted, so that a NaN or an infinity is at an end: then all become NaN
    anchor = rows.gather(-1, at) + (ends - ends)
    t = (rows - anchor).div_(tau)
    gap = -t.gather(-1, (at - 1).clamp_(min=0)).masked_fill_(at == 0, -math.inf)
    return family.threshold(_Budget(t, k, kept, at, gap)), anchor


def _ascending(scores: Tensor) -> Tensor:
    """Sort rows in ascending order, NaN last; on a CPU numpy is two to four times faster than torch."""
    if scores.device.type != "cpu":
        return scores.sort(dim=-1).values
    widened = scores if scores.dtype == torch.float64 else scores.float()
    return torch.from_numpy(np.sort(widened.numpy(force=True), axis=-1))


def _laplace_threshold(budget: _Budget) -> Tensor:
    """Return the threshold of LapSum, its closed form in logarithms.

    ``A_i = sum_{j>=i} e^{t_i - t_j}`` and ``B_i = sum_{j<=i} e^{t_j - t_i}`` lie in [1, N]. A gap of 64 between
    neighbours contributes less than the rounding, so the one at the anchor is shortened to that; then the threshold
    and its neighbours are within a few hundred of it, and plain cumulative sums of e^t and e^-t neither over- nor
    underflow where it matters.
    """
    t, n = budget.t, budget.t.shape[-1]
    moved = (t + budget.gap).clamp_(max=0).sub_(budget.gap.clamp(max=64))  # those below the anchor, with the gap cut
    rise = torch.maximum(t, moved).clamp_(-600, 600).exp_()
    fall = rise.reciprocal()
    below = rise.cumsum(-1).mul_(fall)
    above = fall.flip(-1).cumsum(-1).flip(-1).mul_(rise)
    place = torch.arange(0.5, n, dtype=t.dtype, device=t.device)
    r = torch.searchsorted(torch.add(place, above - below, alpha=0.5), n - budget.k)
    excess = (budget.anchor - r) + (budget.kept - budget.k)
    right, left = r.clamp(max=n - 1), (r - 1).clamp_(min=0)
    log_a = above.gather(-1, right).log_().masked_fill_(r == n, -math.inf)
    log_b = below.gather(-1, left).log_().masked_fill_(r == 0, -math.inf)
    s, u = t.gather(-1, left), t.gather(-1, right)
    log_e = excess.abs().log()
    log_z = torch.logaddexp(log_e, torch.logaddexp(2 * log_e, log_a + log_b + s - u) / 2)
    return torch.where(excess >= 0, u + log_z - log_a, s - log_z + log_b)


def _newton_threshold(cdf: Curve, density: Curve, quantile: Curve, steps: int, budget: _Budget) -> Tensor:
    """Return the threshold by Newton's method on ``log(excess) - log(deficit)``, kept inside a bracket.

    The excess is the weight of the lower N - K, the deficit what the upper K lack to 1: sums without cancellation,
    whose logarithms are nearly straight lines in the tails. The bracket comes from moving all scores above (below) the
    anchor onto it. As in rtsafe (Numerical Recipes, 9.4), a step that leaves the bracket or is more than half the last
    one is replaced by bisection. On a CPU the steps end when all rows have converged, after `MOST_STEPS` at the latest;
    on a GPU there are always ``steps``, because to look the host would wait for it.
    """
    t, k, kept, n = budget.t, budget.k, budget.kept, budget.t.shape[-1]
    split = k.round()
    upper = torch.arange(n, device=t.device) >= n - split
    above, below = upper.to(t), (~upper).to(t)
    sign = below - above
    low = torch.maximum(-quantile(k / kept), -budget.gap - quantile(k / (kept + 1)))
    high = -quantile((k - kept + 1) / (n - kept + 1))
    delta = torch.minimum(torch.maximum(-budget.gap / 2, low), high)
    low, high, last = low - 0.1, high + 0.1, high - low + 1
    looking = t.device.type == "cpu"
    for _ in range(MOST_STEPS if looking else steps):
        z = (t - delta) * sign
        share, slope = cdf(z), density(z)
        excess = share.mul(below).sum(-1, keepdim=True) + (split - k).clamp(min=0)
        deficit = share.mul(above).sum(-1, keepdim=True) + (k - split).clamp(min=0)
        low, high = torch.where(excess >= deficit, delta, low), torch.where(excess <= deficit, delta, high)
        slope_excess = slope.mul(below).sum(-1, keepdim=True) / excess
        slope_deficit = slope.mul(above).sum(-1, keepdim=True) / deficit
        newton = delta + (excess.log() - deficit.log()) / (slope_excess + slope_deficit)
        slack = 1e-12 * (1 + delta.abs())
        move = (newton - delta).abs()
        trusted = (newton > low - slack) & (newton < high + slack) & ((move <= last / 2) | (move <= slack))
        before, middle = delta, (low + high) / 2
        delta = torch.where(trusted, newton, middle)
        last = (delta - before).abs()
        if looking and not (last > slack).any():
            break
    return delta


def _laplace(x: Tensor) -> Tensor:
    tail = x.abs().neg_().exp_().mul_(0.5)
    return torch.where(x < 0, tail, 1 - tail)


def _linear_log_density(x: Tensor) -> Tensor:
    """Return 0 inside and -infinity outside.

    Where none is inside, the nearest have -10000 (e^-10000 = 0) and so share q, the derivative with respect to K.
    """
    outside = x.abs() >= 0.5
    nearest = x.abs() <= x.abs().amin(-1, keepdim=True)
    flat = 0 * x.sign()  # zero, NaN for NaN, and part of the graph
    return flat.masked_fill(outside, -math.inf).masked_fill(outside & nearest, -1e4)


def _linear_quantile(p: Tensor) -> Tensor:
    return torch.where(p < 1, p - 0.5, math.inf)  # infinite at 1 as the others: a whole budget pins nothing there


@dataclass(frozen=True)
class _Family:
    """Symmetric CDF, the logarithm of its density, and the search for its threshold."""

    cdf: Curve
    log_density: Curve
    threshold: Callable[[_Budget], Tensor]


def _by_newton(cdf: Curve, density: Curve, log_density: Curve, quantile: Curve, steps: int = MOST_STEPS) -> _Family:
    return _Family(cdf, log_density, partial(_newton_threshold, cdf, density, quantile, steps))


CDFS = {
    "laplace": _Family(_laplace, lambda x: -x.abs() - math.log(2), _laplace_threshold),
    "logistic": _by_newton(
        torch.sigmoid,
        lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
        lambda x: logsigmoid(x) + logsigmoid(-x),
        torch.logit,
        steps=16,  # 12 were enough for three million rows of many scales, with ties and broken budgets
    ),
    "gaussian": _by_newton(
        torch.special.ndtr,
        lambda x: (-x * x / 2).exp_() / math.sqrt(2 * math.pi),
        lambda x: -x * x / 2 - math.log(2 * math.pi) / 2,
        torch.special.ndtri,
    ),
    "linear": _by_newton(
        lambda x: (x + 0.5).clamp(0, 1), lambda x: (x.abs() < 0.5).to(x), _linear_log_density, _linear_quantile
    ),
}

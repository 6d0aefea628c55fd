"""Agreement of a noisy gradient with a noisy reference (numpy and scipy; no torch).

Both are means of noisy draws. The expectation of an inner product of *different* draws is the product of the true
gradients, so the cosine uses these alone: noise widens its interval but does not pull it towards 0. Such a cosine may
exceed 1; it is clipped there, and the row says so (``cosine_uncut``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # Student's quantile

from gradprobe.statistics.estimates import Estimate, Jackknifed, batch_mean, finite, paired_difference

Array = NDArray[np.float64]

FOLDS = 4  # means of draws for which the scorer's backward runs


def products_of(values: Array) -> Array:
    """Return the inner products of R draws of a vector, ``(R, ..., N) -> (..., R, R)``."""
    return np.einsum("r...n,q...n->...rq", values, values)


def different(gram: Array) -> tuple[Array, Array]:
    """Return the mean inner product of two different draws, an estimate of ``|E a|^2``, and the variance of its noise.

    The variance is a delete-one jackknife over draws. A single draw counts as a vector without noise.

    Args:
        gram: Inner products of draws, ``(..., R, R)``; R is 1, or at least 3 for a variance.

    Returns:
        Mean ``(...)``, which may be negative, and variance ``(...)``.

    Example:
        >>> value, variance = different(products_of(np.array([[1.0, 2.0], [3.0, -1.0], [2.0, 2.0]])))
        >>> value.round(12), variance.round(12)
        (np.float64(3.666666666667), np.float64(8.444444444444))
    """
    r = gram.shape[-1]
    own = np.einsum("...rr->...r", gram)
    if r == 1:
        return own[..., 0], np.zeros(own.shape[:-1])
    rows = gram.sum(-1) - own
    value = rows.sum(-1) / (r * (r - 1))
    if r == 2:
        return value, np.full(value.shape, np.nan)
    left_out = (rows.sum(-1, keepdims=True) - 2 * rows) / ((r - 1) * (r - 2))
    return value, (r - 1) * left_out.var(-1)


def group_sum(matrix: Array) -> Jackknifed:
    """Return the sum of a ``(G, G)`` matrix of products of groups, jackknifed over groups (a row and a column each)."""
    rows, columns = matrix.sum(1), matrix.sum(0)
    return Jackknifed(float(matrix.sum()), matrix.sum() - rows - columns + np.diagonal(matrix))


def estimate(statistic: Jackknifed, level: float = 0.95) -> Estimate:
    """Return value -+ t se, with degrees of freedom estimated from the replicates.

    A few images often hold most of a gradient's energy, and a variance of few numbers is uncertain. With d the spread
    of the replicates, ``2 / (sum d^4 / (sum d^2)^2 - 1/n)`` is n for Gaussian ones and 2 if one image is all there is.

    Source: Satterthwaite 1946, with the variance of the variance estimated.
    """
    value, half = float(statistic.value), _half_width(statistic.left_out, level)
    return Estimate(value, value - half, value + half)


def cut_estimate(statistic: Jackknifed, level: float = 0.95) -> Estimate:
    """Return a disattenuated cosine with its interval, both clipped to [-1, 1].

    The interval is the hull of ``value -+ t se``, clipped, and of that on the atanh scale. The latter is right where
    the cosine varies less the nearer it is to 1; where the noise of draws dominates it does not, and atanh alone covers
    91 %. Where ``value -+ t se`` reaches an end, the clipped interval stands alone. One that lies beyond an end as a
    whole keeps half its width, so that no interval has zero width.

    Args:
        statistic: Cosine and its replicates, which may exceed 1.
        level: Level of the interval.

    Example:
        >>> cut_estimate(Jackknifed(1.28, np.array([1.2, 1.25, 1.3, 1.37]))).value
        1.0
    """
    value, half = statistic.value, _half_width(statistic.left_out, level)
    low, high = value - half, value + half
    if low > -1 and high < 1:
        ends = np.tanh(np.arctanh(value) + half / (1 - value**2) * np.array([-1, 1]))
        low, high = min(low, ends[0]), max(high, ends[1])
    elif low > 1 or high < -1:
        low, high = (1 - half, 1) if low > 1 else (-1, half - 1)
    return Estimate(*(float(np.clip(x, -1, 1)) for x in (value, low, high)))


def _half_width(replicates: Array, level: float) -> float:
    """Return half the width of an interval, from delete-one replicates; 0 if these do not differ, NaN if unknown."""
    n = len(replicates)
    if not np.isfinite(replicates).all():  # of a single image, or undefined without one of them
        return float("nan")
    spread = replicates - replicates.mean()
    power = float(spread @ spread)
    if not power > 0:
        return 0.0
    uncertain = np.sum(spread**4) / power**2 - 1 / n
    freedom = max(2 / max(uncertain, 2 / (n - 1)), 1)
    return float(stdtrit(freedom, (1 + level) / 2) * np.sqrt((n - 1) / n * power))


@dataclass(frozen=True)
class Cosine:
    """Disattenuated cosine, or the reason why there is none."""

    value: Jackknifed | None
    reason: str | None


def cosine(ab: Jackknifed, aa: Jackknifed, bb: Jackknifed, noise: tuple[float, float] = (0, 0)) -> Cosine:
    """Return ``<a, b> / sqrt(|a|^2 |b|^2)`` from products that noise does not bias, jackknifed as a whole.

    Args:
        ab: Estimate of ``<a, b>``, a the operator's gradient and b the reference.
        aa: Estimate of ``|a|^2``.
        bb: Estimate of ``|b|^2``.
        noise: Half a 95 % interval of the noise of draws in the last two.

    Returns:
        Cosine; None with a reason where noise hides ``|a|^2`` or ``|b|^2``, since any number could result there.

    Example:
        >>> a, b = np.array([[3.0, 4.0], [6.0, 8.0]]), np.array([[4.0, 3.0], [8.0, 6.0]])
        >>> products = [batch_mean((x * y).sum(1)) for x, y in ((a, b), (a, a), (b, b))]
        >>> round(cosine(*products).value.value, 12)
        0.96
    """
    words = (("the operator's gradient", "noise draws"), ("the reference", "draws"))
    for product, half, (name, more) in zip((aa, bb), noise, words, strict=True):
        if not product.value > half or (product.left_out <= 0).any():
            return Cosine(None, f"undefined: {name} is not told from noise; more {more} or images")
    return Cosine(ab.map(lambda x, y, z: x / np.sqrt(y * z), aa, bb), None)


@dataclass(frozen=True)
class Products:
    """Products behind an operator's row: I images, S sigmas, G groups of images, E steps, I_h held-out images.

    Attributes:
        sigmas: Scales of the smoothing, ``(S,)``.
        ab: Products ``<a_i, b_i>`` of each image, a the operator's mean gradient and b the reference, ``(S, I)``.
        aa: Estimate of ``|E a_i|^2`` and the variance of its noise, raw and centred, ``(2, 2, I)``.
        power: Mean of ``|a_ir|^2`` over draws, raw and centred, ``(2, I)``.
        bb: Estimate of ``|E b_i|^2`` and the variance of its noise, ``(S, 2, I)``.
        theta_ab: Products of the scorer gradients of groups of images, raw and centred, ``(2, S, G, G)``.
        theta_aa: Those of the operator with itself, ``(2, G, G)``.
        theta_bb: Those of the reference with itself, ``(S, G, G)``.
        theta_noise: Variance of the noise of the sums of the last two, ``(2 + S,)``.
        ladder: Steps relative to the norm of theta, ``(E,)``.
        held: Deployed loss of each held-out image at theta, ``(I_h,)``.
        after: Loss after each step along the operator's gradient, ``(E, I_h)``; empty without a gradient.
        ceiling: Loss after each step along the reference, ``(S, E, I_h)``.
    """

    sigmas: Array
    ab: Array
    aa: Array
    power: Array
    bb: Array
    theta_ab: Array
    theta_aa: Array
    theta_bb: Array
    theta_noise: Array
    ladder: Array
    held: Array
    after: Array
    ceiling: Array


def fidelity_row(products: Products, baseline: Products | None = None) -> dict[str, Any]:
    """Return the numbers of an operator's row: ``sigmas`` and ``ladder`` are tables; None is undefined.

    Args:
        products: Products of the operator.
        baseline: Products of another operator on the same images.
    """
    power = products.power.sum(1)
    signal = products.aa[0].sum(-1)
    loud = (power[0] - signal[0]) / signal[0] if signal[0] > _half(signal[1]) else np.nan
    return {
        "common_mode": finite(1 - power[1] / power[0] if power[0] > 0 else np.nan),
        "variance": finite(loud),
        "sigmas": [_at_sigma(products, s, baseline) for s in range(len(products.sigmas))],
        "ladder": [_at_step(products, e, baseline) for e in range(len(products.ladder))],
    }


def cosines(products: Products, s: int) -> dict[str, Cosine]:
    """Return the cosines at the s-th sigma: in the scores and, if there are scorer gradients, in the parameters."""
    count = products.ab.shape[1]
    ab, bb = batch_mean(products.ab[s]), batch_mean(products.bb[s, 0])
    named = {}
    for c, name in enumerate(("cosine", "centred")):
        noise = _half(products.aa[c, 1].sum()) / count, _half(products.bb[s, 1].sum()) / count
        named[name] = cosine(ab, batch_mean(products.aa[c, 0]), bb, noise)
    if products.theta_bb.shape[-1] > 1:
        bb = group_sum(products.theta_bb[s])
        for c, name in enumerate(("theta", "theta_centred")):
            few = _half(products.theta_noise[c], FOLDS - 1), _half(products.theta_noise[2 + s], FOLDS - 1)
            named[name] = cosine(group_sum(products.theta_ab[c, s]), group_sum(products.theta_aa[c]), bb, few)
    return named


def ungated(products: Products, s: int) -> dict[str, Jackknifed]:
    """Return cosines that are defined for every operator with a gradient, for correlations over operators.

    A square below its noise is raised to half the noise's interval, so that a noisy gradient counts as one in no
    particular direction. Leaving such operators out would bias a correlation. Where `cosine` is defined the two agree.
    """
    count = products.ab.shape[1]
    means = batch_mean(products.ab[s]), batch_mean(products.aa[0, 0]), batch_mean(products.bb[s, 0])
    least = _half(products.aa[0, 1].sum()) / count, _half(products.bb[s, 1].sum()) / count
    named = {"cosine": _raised(*means, *least)}
    if products.theta_bb.shape[-1] > 1:
        ab, aa, bb = map(group_sum, (products.theta_ab[0, s], products.theta_aa[0], products.theta_bb[s]))
        few = (_half(products.theta_noise[i], FOLDS - 1) for i in (0, 2 + s))
        named["theta"] = _raised(ab, aa, bb, *few)
    return named


def _raised(ab: Jackknifed, aa: Jackknifed, bb: Jackknifed, least_a: float, least_b: float) -> Jackknifed:
    """Return a cosine whose squares are raised to the given ones."""
    return ab.map(lambda x, y, z: x / np.sqrt(np.maximum(y, least_a) * np.maximum(z, least_b)), aa, bb)


def _half(variance: float, freedom: float = np.inf) -> float:
    """Return half the width of a 95 % interval."""
    return float(stdtrit(freedom, 0.975) * np.sqrt(variance))


def _at_sigma(products: Products, s: int, baseline: Products | None) -> dict[str, Any]:
    ours = cosines(products, s)
    theirs = {} if baseline is None else cosines(baseline, s)
    row: dict[str, Any] = {"sigma": float(products.sigmas[s])}
    for name, every in ungated(products, s).items():
        row |= _numbers(f"{name}_ungated", every, cut_estimate)
    for name, mine in ours.items():
        row |= _numbers(name, mine.value, cut_estimate) | {f"{name}_reason": mine.reason}
        beyond = mine.value is not None and abs(mine.value.value) > 1
        row[f"{name}_uncut"] = float(mine.value.value) if mine.value is not None and beyond else None
        if baseline is not None:
            other = theirs[name].value if name in theirs else None
            above = None if mine.value is None or other is None else paired_difference(mine.value, other, cut_estimate)
            row |= _ends(f"{name}_difference", above)
    ab, aa, bb = batch_mean(products.ab[s]), batch_mean(products.aa[0, 0]), batch_mean(products.bb[s, 0])
    others = {
        "bias2": lambda x, y, z: (y - 2 * x + z) / z,
        "bias2_scaled": lambda x, y, z: 1 - x**2 / (y * z),
        "scale": lambda x, y, z: x / y,
    }
    for name, function in others.items():
        row |= _numbers(name, ab.map(function, aa, bb) if ours["cosine"].value is not None else None)
    for name, least, most in (("bias2", 0, np.inf), ("bias2_scaled", 0, 1)):
        row |= {key: _within(row[key], least, most) for key in (name, f"{name}_low", f"{name}_high")}
    return row


def _within(value: float | None, least: float, most: float) -> float | None:
    """Clip a number to its possible range."""
    return None if value is None else float(np.clip(value, least, most))


def _at_step(products: Products, e: int, baseline: Products | None) -> dict[str, Any]:
    """Return the descent rate ``(J(theta) - J(theta - step)) / step``, also against the baseline's."""
    step = float(products.ladder[e])
    ours = (products.held - products.after[e]) / step if len(products.after) else None
    row: dict[str, Any] = {"step": step, **_numbers("rate", _mean(ours))}
    row["moved"] = None if ours is None else float((ours != 0).mean())
    if baseline is not None:
        other = (baseline.held - baseline.after[e]) / step if len(baseline.after) else None
        row |= _numbers("rate_difference", None if ours is None or other is None else _mean(ours - other))
    row["ceilings"] = [
        {"sigma": float(sigma), **_numbers("rate", _mean((products.held - after[e]) / step))}
        for sigma, after in zip(products.sigmas, products.ceiling, strict=True)
    ]
    return row


def _mean(values: Array | None) -> Jackknifed | None:
    return None if values is None else batch_mean(values)


def _numbers(
    name: str, statistic: Jackknifed | None, interval: Callable[[Jackknifed], Estimate] = estimate
) -> dict[str, float | None]:
    return _ends(name, None if statistic is None else interval(statistic))


def _ends(name: str, numbers: Estimate | None) -> dict[str, float | None]:
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    return {f"{name}{end}": None if numbers is None else finite(getattr(numbers, of)) for end, of in ends}


def widest(rows: Sequence[dict[str, Any]]) -> float:
    """Return half the width of the widest interval of a cosine in the scores; infinite where one is undefined.

    Args:
        rows: Rows of operators with a gradient.
    """
    halves = [
        np.inf if at["cosine"] is None else (at["cosine_high"] - at["cosine_low"]) / 2
        for row in rows
        for at in row["sigmas"]
    ]
    return float(max(halves, default=0.0))


def reference_rows(sigmas: Array, parts: Array, ladder: Array, held: Array, after: Array) -> list[dict[str, Any]]:
    """Return the signal and reliability of the gradient of the smoothed objective, a table for each sigma.

    Args:
        sigmas: Scales of the smoothing, ``(S,)``.
        parts: Independent estimates of the gradient, ``(S, H, I, N)``.
        ladder: Steps, ``(E,)``.
        held: Deployed loss at theta, ``(I_h,)``.
        after: Deployed loss after each step, ``(S, E, I_h)``.
    """
    rows = []
    for s, sigma in enumerate(sigmas):
        signal = batch_mean(different(products_of(parts[s]))[0])
        whole = batch_mean(np.square(parts[s].mean(0)).sum(-1))
        ladders = [
            {"step": float(step), **_numbers("rate", _mean((held - then) / step))}
            for step, then in zip(ladder, after[s], strict=True)
        ]
        row: dict[str, Any] = {"sigma": float(sigma), **_numbers("signal", signal), "ladder": ladders}
        row |= _numbers("reliability", signal.map(lambda x, y: x / y, whole))
        rows.append(row | {key: _within(row[key], 0, 1) for key in row if key.startswith("reliability")})
    return rows

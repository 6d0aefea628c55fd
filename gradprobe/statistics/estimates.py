"""Estimates with intervals, from numbers of batches (numpy and scipy; no torch).

The input is a Gram matrix of batch gradients, or one number per batch. Intervals are delete-one jackknives over
*batches*, because the pairs of batches in a mean cosine share gradients and are not independent. Those of cosines are
computed on the atanh scale, so that they stay inside [-1, 1]. docs/statistics.md has the coverage of each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # Student's quantile; scipy.stats takes half a second to import

Array = NDArray[np.float64]
ROUNDING = 1e-12  # a cosine this near to 1 is 1


@dataclass(frozen=True)
class Estimate:
    """Number with its 95 % interval, NaN where undefined."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Jackknifed:
    """Statistic of all B batches, with its B values when one batch is left out."""

    value: float
    left_out: Array

    def estimate(self, level: float = 0.95) -> Estimate:
        """Return value -+ t se with ``se^2 = (B-1)/B sum (C_(i) - mean)^2`` and B - 1 degrees of freedom."""
        b = len(self.left_out)
        if b < 2:
            return Estimate(self.value, np.nan, np.nan)
        with np.errstate(invalid="ignore"):  # an infinite replicate
            spread = self.left_out - self.left_out.mean()
        half = stdtrit(b - 1, (1 + level) / 2) * np.sqrt((b - 1) / b * (spread @ spread))
        return Estimate(float(self.value), float(self.value - half), float(self.value + half))

    def map(self, function, *others: "Jackknifed") -> "Jackknifed":
        """Apply a function to this statistic (and others of the same batches), to value and replicates alike."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return Jackknifed(
                float(function(np.float64(self.value), *(np.float64(o.value) for o in others))),
                function(self.left_out, *(o.left_out for o in others)),
            )


def of_cosine(mean: Jackknifed, level: float = 0.95) -> Estimate:
    """Return a mean cosine with an interval that is computed on the atanh scale and never leaves [-1, 1].

    ``tanh(atanh C -+ t se / (1 - C^2))`` with ``se^2 = sum (C_(i) - mean)^2``: B/(B-1) times the plain jackknife's,
    which covers better with few batches. (If the replicates were transformed one by one, a single odd batch without
    which C is nearly 1 would stretch the other end far below 0.) Where all cosines are exactly 1 or -1, both ends are
    that value. Coverage with 6 batches: 0.90 to 0.93 at C = 0.88 to 0.98, 0.99 at 0; docs/statistics.md.

    Args:
        mean: Mean of cosines and its replicates, all in [-1, 1].
        level: Level of the interval.

    Source: Fisher 1921 for the scale.

    Example:
        >>> interval = of_cosine(Jackknifed(0.95, np.array([0.93, 0.95, 0.97])))
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.525, 0.996)
    """
    b, value = len(mean.left_out), float(mean.value)
    if b < 2 or not np.isfinite(mean.left_out).all():
        return Estimate(value, np.nan, np.nan)
    if abs(value) >= 1 - ROUNDING:
        return Estimate(*(float(np.clip(value, -1, 1)),) * 3)
    spread = mean.left_out - mean.left_out.mean()
    half = stdtrit(b - 1, (1 + level) / 2) * np.sqrt(spread @ spread) / (1 - mean.value**2)
    low, high = np.tanh(np.arctanh(value) + half * np.array([-1, 1]))
    return Estimate(value, min(float(low), value), max(float(high), value))  # the two functions round


def mover(ours: Estimate, theirs: Estimate, correlation: float = 0.0) -> Estimate:
    """Return the difference of two estimates, with an interval from theirs: the method of variance estimates recovery.

    With a in [a1, a2], b in [b1, b2] and their correlation r, the lower end is
    ``a - b - sqrt((a - a1)^2 - 2 r (a - a1) (b2 - b) + (b2 - b)^2)``, the upper one likewise. It never leaves
    ``[a1 - b2, a2 - b1]``, so that a difference of two cosines stays in [-2, 2].

    Args:
        ours: Estimate a.
        theirs: Estimate b.
        correlation: Correlation of their errors.

    Source: Zou 2007, "Toward using confidence intervals to compare correlations".

    Example:
        >>> difference = mover(Estimate(0.9, 0.5, 1.0), Estimate(0.2, 0.0, 0.5))
        >>> round(difference.low, 3), round(difference.value, 3), round(difference.high, 3)
        (0.2, 0.7, 0.924)
    """
    down, up = ours.value - ours.low, ours.high - ours.value
    below, above = theirs.value - theirs.low, theirs.high - theirs.value
    low = np.sqrt(max(down**2 - 2 * correlation * down * above + above**2, 0))
    high = np.sqrt(max(up**2 - 2 * correlation * up * below + below**2, 0))
    value = ours.value - theirs.value
    return Estimate(float(value), float(value - low), float(value + high))


def paired_difference(ours: Jackknifed, theirs: Jackknifed, interval: Callable[[Jackknifed], Estimate]) -> Estimate:
    """Return the difference of two statistics of the same batches: `mover` with the correlation of their replicates.

    Args:
        ours: Statistic of one operator.
        theirs: Statistic of the other; if its replicates are the same, the interval has no width.
        interval: Function that gives the interval of each.
    """
    if np.array_equal(ours.left_out, theirs.left_out):
        return Estimate(*(float(ours.value - theirs.value),) * 3)
    a, b = (each.left_out - each.left_out.mean() for each in (ours, theirs))
    scale = np.sqrt((a @ a) * (b @ b))
    correlation = float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else 0.0
    return mover(interval(ours), interval(theirs), correlation)


def pair_mean(matrix: Array) -> Jackknifed:
    """Return the mean over pairs of different batches, ``2/(B(B-1)) sum_{i<j} M_ij``, of a symmetric matrix.

    With T the row sums, ``C_(i) = (sum M - 2 T_i + M_ii - (tr M - M_ii)) / ((B-1)(B-2))``. The plain jackknife doubles
    the variance where batches have nothing in common. With ``M_ij = C + g_i + g_j + w_ij`` its expectation is
    ``4 var(g)/B + 4 var(w)/(B(B-2))`` where the truth is ``4 var(g)/B + 2 var(w)/(B(B-1))``; var(w) follows from the
    residuals, so the replicates are scaled to the right spread. (An estimate of var(g) below 0 counts as 0, so at
    C = 0 exactly the variance is still about 1.5 times too large.)

    Source: Efron and Stein 1981, section 4, for the bias; Hoeffding's decomposition for the correction.

    Example:
        >>> matrix = np.array([[1, 0.5, 0.2, 0.4], [0.5, 1, 0.8, 0.3], [0.2, 0.8, 1, 0.2], [0.4, 0.3, 0.2, 1]])
        >>> float(pair_mean(matrix).value.round(12))
        0.4
    """
    b = len(matrix)
    rows, diagonal = matrix.sum(1), np.diagonal(matrix)
    total, trace = rows.sum(), diagonal.sum()
    value = (total - trace) / (b * (b - 1)) if b > 1 else np.nan
    if b < 3:
        return Jackknifed(value, np.full(b, np.nan))
    left_out = (total - 2 * rows + diagonal - (trace - diagonal)) / ((b - 1) * (b - 2))
    spread = left_out - left_out.mean()
    plain = (b - 1) / b * (spread @ spread)
    if b < 4 or not plain > 0:
        return Jackknifed(value, left_out)
    own = ((rows - diagonal) / (b - 1) - value) * (b - 1) / (b - 2)  # g_i
    rest = matrix - value - own[:, None] - own[None]
    pairs = b * (b - 3) / 2
    noise = (np.sum(rest**2) - np.sum(np.diagonal(rest) ** 2)) / (2 * pairs)  # var(w); each pair enters twice
    first, second = max(plain - 4 * noise / (b * (b - 2)), 0), 2 * noise / (b * (b - 1))
    return Jackknifed(value, left_out.mean() + spread * np.sqrt((first + second) / plain))


def batch_mean(values: Array) -> Jackknifed:
    """Return the mean over batches."""
    b = len(values)
    return Jackknifed(float(values.mean()), (values.sum() - values) / (b - 1) if b > 1 else np.full(b, np.nan))


def auc(scores: Array, relevant: NDArray[np.bool_]) -> Array:
    """Return the share of pairs in which a relevant token outscores another one, ties counted half, ``(B,)``.

    NaN for an image all or none of whose tokens are relevant. 0.5 is chance, 1 a perfect ranking.

    Args:
        scores: Scores, ``(B, N)``.
        relevant: Mask of the relevant tokens, ``(B, N)``.

    Example:
        >>> auc(np.array([[3.0, 1.0, 2.0, 2.0]]), np.array([[True, False, False, True]]))
        array([0.875])
    """
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=1)
    count = relevant.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((ranks * relevant).sum(1) - count * (count + 1) / 2) / (count * (relevant.shape[1] - count))


def pairings(gram: Array) -> tuple[Array, Array, Array]:
    """Split products of gradients into those of other draws, of the same draw, and of the same batch.

    Args:
        gram: Inner products (or cosines) of the gradients of B batches with R noise draws, ``(B, R, B, R)``.

    Returns:
        Means over different draws r != r', ``total (B, B)``; over equal draws, ``data (B, B)``; and the diagonal of
        ``total``, the same batch with different draws, ``op (B,)``.
    """
    r = gram.shape[1]
    same = np.einsum("irjr->ij", gram)
    total = (gram.sum((1, 3)) - same) / (r * (r - 1))
    return total, same / r, np.diagonal(total)


def cosines(gram: Array) -> Array:
    """Return cosines from inner products, ``G_ij / sqrt(G_ii G_jj)``; NaN where a gradient is zero."""
    norms = np.sqrt(np.einsum("irir->ir", gram))
    with np.errstate(divide="ignore", invalid="ignore"):
        return gram / (norms[:, :, None, None] * norms[None, None])


@dataclass(frozen=True)
class Coherence:
    """Agreement of the gradients of different batches, split by noise, with related statistics.

    With u the unit gradients of B batches of b images and R draws:

    - ``total``: the coherence C, the mean cosine of different batches and different draws;
    - ``data``: different batches, same draw; ``op``: same batch, different draws (1 for a deterministic operator);
    - ``norm``: mean gradient norm;
    - ``m_coherence``: ``|sum g|^2 / sum |g|^2``, 1 for orthogonal gradients, B for equal ones (arXiv 2008.01217);
    - ``snr``: ``|E g|^2 / tr Cov g`` of a batch gradient;
    - ``noise_scale``: ``b tr Cov / |E g|^2`` in images (arXiv 1812.06162).
    """

    total: Jackknifed
    data: Jackknifed
    op: Jackknifed
    norm: Jackknifed
    m_coherence: Jackknifed
    snr: Jackknifed
    noise_scale: Jackknifed


def coherence(gram: Array, batch_size: int) -> Coherence:
    """Return the coherence of batch gradients, the mean pairwise cosine over independent batches.

    Args:
        gram: Inner products of the gradients of B batches with R >= 2 draws, ``(B, R, B, R)``.
        batch_size: Number of images in a batch.
    """
    total, data, op = pairings(cosines(gram))
    signal = pair_mean(pairings(gram)[0])
    power = np.einsum("irir->ir", gram)
    energy = batch_mean(power.mean(1))
    b = len(gram)
    return Coherence(
        total=pair_mean(total),
        data=pair_mean(data),
        op=batch_mean(op),
        norm=batch_mean(np.sqrt(power).mean(1)),
        m_coherence=signal.map(lambda s, e: 1 + (b - 1) * s / e, energy),
        snr=signal.map(lambda s, e: s / (e - s), energy),
        noise_scale=signal.map(lambda s, e: np.where(s > 0, batch_size * (e - s) / s, np.inf), energy),
    )


@dataclass(frozen=True)
class PairedCosines:
    """Mean cosine against a baseline's on the same batches.

    Where ``ratio`` has no interval it is None: ``reason`` says why, and ``difference`` is the number to read.
    """

    ratio: Estimate | None
    reason: str | None
    difference: Estimate


def compare_cosines(ours: Jackknifed, baseline: Jackknifed, level: float = 0.95) -> PairedCosines:
    """Return the paired ratio and difference of a mean cosine and a baseline's on the same batches.

    The ratio is a jackknife of its logarithm; the difference follows from the two intervals and the correlation of
    their errors (`paired_difference`).
    """
    below = of_cosine(baseline, level)
    difference = paired_difference(ours, baseline, lambda each: of_cosine(each, level))
    if np.isnan(ours.value) or np.isnan(baseline.value):
        return PairedCosines(None, "undefined: one of the two is not defined", difference)
    if not below.low > 0 or (baseline.left_out <= 0).any():
        return PairedCosines(None, "unbounded: the baseline's interval reaches 0", difference)
    if ours.value <= 0 or (ours.left_out <= 0).any():  # no logarithm: the ratio itself
        return PairedCosines(ours.map(lambda a, b: a / b, baseline).estimate(level), None, difference)
    log = ours.map(lambda a, b: np.log(a) - np.log(b), baseline).estimate(level)
    return PairedCosines(Estimate(*(float(np.exp(x)) for x in (log.value, log.low, log.high))), None, difference)


def coherence_row(
    gram: Array, common: Array, energy: Array, batch_size: int, baseline: Array | None = None
) -> dict[str, float | str | None]:
    """Return the numbers of one row of the coherence table, None where undefined.

    Args:
        gram: Inner products of batch gradients, raw and centred, per parameter group, ``(2, G, B, R, B, R)``.
        common: Squared norm of the common mode of the score gradients of a batch, ``(B, R)``.
        energy: Squared norm of the score gradients of a batch, ``(B, R)``.
        batch_size: Number of images in a batch.
        baseline: Baseline's ``gram`` on the same batches; None for the baseline itself.
    """
    raw, centred = (coherence(part.sum(0, dtype=np.float64), batch_size) for part in gram)
    total, middle = of_cosine(raw.total), of_cosine(centred.total)
    share = common.sum() / energy.sum() if energy.sum() > 0 else np.nan
    numbers: dict[str, float | str | None] = {
        "coherence": total.value, "low": total.low, "high": total.high,
        "centred": middle.value, "centred_low": middle.low, "centred_high": middle.high,
        "common_mode": float(share), "c_data": raw.data.value, "c_op": raw.op.value,
        "grad_norm": raw.norm.value, "m_coherence": raw.m_coherence.value,
        "snr": raw.snr.value, "noise_scale": raw.noise_scale.value,
    }  # fmt: skip
    for prefix, ours, index in (("", raw, 0), ("centred_", centred, 1)):
        against = None if baseline is None else coherence(baseline[index].sum(0, dtype=np.float64), batch_size)
        versus = None if against is None else compare_cosines(ours.total, against.total)
        for name, estimate in (("ratio", versus and versus.ratio), ("difference", versus and versus.difference)):
            for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high")):
                numbers[f"{prefix}{name}{suffix}"] = getattr(estimate, field) if estimate else None
        numbers[f"{prefix}ratio_reason"] = versus.reason if versus else None
    return {name: finite(value) for name, value in numbers.items()}


def finite(value: Any) -> Any:
    """Return a value, None for a float that is not finite."""
    if not isinstance(value, float):
        return value
    return float(value) if np.isfinite(value) else None

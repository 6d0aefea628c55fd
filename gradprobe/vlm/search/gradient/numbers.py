"""Numbers of the table: agreement of batches, with the deployed loss, falls along steps, and the line (no torch)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # Student's quantile

from gradprobe.statistics.agreement import cosine, cut_estimate, different, estimate, group_sum
from gradprobe.statistics.association import spearman
from gradprobe.statistics.estimates import Estimate, Jackknifed, batch_mean, cosines, of_cosine, pair_mean
from gradprobe.statistics.roughness import landscape_row
from gradprobe.vlm.search.gradient.projected import Probed, along, in_tangent
from gradprobe.vlm.search.gradient.settings import GradientSettings
from gradprobe.vlm.search.gradient.smoothed import pair_estimates

Array = NDArray[np.float64]
LINE_NUMBERS = ("variation", "low", "high", "ratio", "ratio_low", "ratio_high", "zero_share", "exponent")


def rows_at(probed: Probed, settings: GradientSettings) -> list[dict[str, Any]]:
    """Return a row for the relaxed gradient at each softness, then one for the reference at each sigma."""
    references = [
        pair_estimates(probed.losses[s], probed.z[s], probed.moment[s]) / sigma @ probed.jacobian
        for s, sigma in enumerate(settings.sigmas)
    ]
    point = {"at": probed.label, "counts": list(probed.whole), "share": probed.share}
    rows = []
    for t, softness in enumerate(settings.softness):
        gradient = probed.relaxed[t]
        row = point | {"gradient": "relaxed", "softness": softness, **_coherence(gradient, probed.normal)}
        row |= {"sigmas": [
            {"sigma": sigma, **fidelity(gradient, each, probed.normal)}
            for sigma, each in zip(settings.sigmas, references, strict=True)
        ]}  # fmt: skip
        rows.append(row | {"ladder": _ladder(probed, t, settings), "line": _line(probed, probed.line_relaxed[t])})
    for s, (sigma, each) in enumerate(zip(settings.sigmas, references, strict=True)):
        row = point | {"gradient": "deployed", "sigma": sigma, **_deployed_budget(each, probed.normal)}
        rows.append(row | {"ladder": _ladder(probed, len(settings.softness) + s, settings)})
    return [*rows, point | {"gradient": "line", "line": _line(probed, None)}]


def fidelity(gradient: Array, reference: Array, normal: Array) -> dict[str, Any]:
    """Return the cosine of a relaxed gradient with the reference, whole and within the budget's tangent plane.

    Args:
        gradient: Of each batch, ``(B, P)``.
        reference: Of the same batches, from each pair of draws, ``(D, B, P)``.
        normal: Gradient of the budget, ``(P,)``.
    """
    row: dict[str, Any] = {}
    within = in_tangent(gradient, normal), in_tangent(reference, normal)
    for name, own, other in (("cosine", gradient, reference), ("tangent", *within)):
        value, reason = _cosine(own, other)
        row |= _ends(name, None if value is None else cut_estimate(value)) | {f"{name}_reason": reason}
        beyond = value is not None and abs(value.value) > 1 + 1e-9
        row[f"{name}_uncut"] = float(value.value) if value is not None and beyond else None
    return row


def both(images: Jackknifed, draws: Array) -> Jackknifed:
    """Join the jackknife over batches with that over draws, which all batches share: variances add up.

    Args:
        images: Statistic and its replicates without each batch.
        draws: Replicates without each pair of draws.

    Returns:
        Replicates whose jackknife variance is the sum of the two.
    """
    n = len(images.left_out) + len(draws)
    spread = [
        (each - each.mean()) * np.sqrt((len(each) - 1) / len(each) * n / (n - 1)) for each in (images.left_out, draws)
    ]
    return Jackknifed(images.value, images.value + np.concatenate(spread))


def _cosine(gradient: Array, reference: Array) -> tuple[Jackknifed | None, str | None]:
    """Return the cosine of sums over batches, ``(B, P)`` and ``(D, B, P)``, or the reason why there is none."""
    square, half = _square(reference)
    aa = group_sum(gradient @ gradient.T)
    found = cosine(group_sum(gradient @ reference.mean(0).T), aa, square, (0, half))
    squares = _squares_without(reference)
    if found.value is None or not (squares > 0).all():
        return None, found.reason or "undefined: the reference is not told from noise; more draws or images"
    each = reference.sum(1)
    without = (each.sum(0) - each) / (len(each) - 1)
    return both(found.value, without @ gradient.sum(0) / np.sqrt(aa.value * squares)), None


def _square(reference: Array) -> tuple[Jackknifed, float]:
    """Return ``|b|^2`` of the sum over batches, from products of different draws, and half its 95 % interval."""
    gram = np.einsum("rgp,qhp->ghrq", reference, reference)
    noise = float(different(gram.sum((0, 1)))[1])
    return group_sum(different(gram)[0]), float(stdtrit(len(reference) - 1, 0.975) * np.sqrt(noise))


def _squares_without(reference: Array) -> Array:
    """Return the same squares without each pair of draws, ``(D,)``."""
    each = reference.sum(1)
    d, gram = len(each), each @ each.T
    rows = gram.sum(1) - np.diagonal(gram)
    return (rows.sum() - 2 * rows) / ((d - 1) * (d - 2))


def _coherence(gradient: Array, normal: Array) -> dict[str, Any]:
    """Return the mean cosine over pairs of batches, whole and in the tangent plane, and the share along the budget."""
    row: dict[str, Any] = {}
    for name, each in (("coherence", gradient), ("coherence_tangent", in_tangent(gradient, normal))):
        gram = each @ each.T
        agreement = pair_mean(cosines(gram[:, None, :, None])[:, 0, :, 0])
        row |= _ends(name, None if np.isnan(agreement.value) else of_cosine(agreement))
    own, whole = along(gradient, normal), group_sum(gradient @ gradient.T)
    share = None if whole.value <= 0 else group_sum(own @ own.T).map(lambda x, y: x / y, whole)
    norm = float(np.linalg.norm(gradient.mean(0)))
    return row | _share(share) | {"norm": norm}


def _deployed_budget(reference: Array, normal: Array) -> dict[str, Any]:
    """Return the share of the reference along the budget, corrected for the noise of draws, and its norm."""
    own = along(reference, normal)
    (part, _), (whole, half) = _square(own), _square(reference)
    share = None
    if whole.value > half and (whole.left_out > 0).all():
        left_out = _squares_without(own) / _squares_without(reference)
        share = both(part.map(lambda x, y: x / y, whole), left_out)
    return _share(share) | {"norm": float(np.sqrt(max(whole.value, 0)) / reference.shape[1])}


def _share(share: Jackknifed | None) -> dict[str, Any]:
    row = _ends("budget_share", None if share is None else estimate(share))
    return {name: None if value is None else float(np.clip(value, 0, 1)) for name, value in row.items()}


def _ladder(probed: Probed, which: int, settings: GradientSettings) -> list[dict[str, Any]]:
    """Return the fall of the deployed held-out loss after each step along a gradient's tangent part, at one budget."""
    rows = []
    for e, step in enumerate(settings.ladder):
        counts = probed.ladder[1 + which * len(settings.ladder) + e]
        fall = batch_mean(probed.before - probed.after[which, e])
        moved = sum(abs(a - b) for a, b in zip(counts, probed.ladder[0], strict=True))
        rows.append({"step": step, "counts": list(counts), "moved": moved, **_ends("fall", estimate(fall))})
    return rows


def _line(probed: Probed, relaxed: Array | None) -> dict[str, Any]:
    """Return the roughness of the line; of a relaxed loss also its height above the deployed one and its rank."""
    deployed = probed.line_deployed[None]
    own = deployed if relaxed is None else relaxed[None]
    row = landscape_row(own, np.zeros(1), probed.line, None if relaxed is None else deployed)
    numbers: dict[str, Any] = {name: row.get(f"d2_{name}") for name in LINE_NUMBERS}
    if relaxed is None:
        return numbers
    gap = estimate(batch_mean((relaxed - probed.line_deployed).mean(0)))
    left = [np.delete(np.arange(relaxed.shape[1]), i) for i in range(relaxed.shape[1])]
    rank = Jackknifed(_rank(relaxed, deployed[0]), np.array([_rank(relaxed[:, i], deployed[0][:, i]) for i in left]))
    return numbers | _ends("gap", gap) | _ends("rank", cut_estimate(rank) if np.isfinite(rank.left_out).all() else None)


def _rank(relaxed: Array, deployed: Array) -> float:
    """Return Spearman's correlation of two mean losses over the points of the line; NaN where one is constant."""
    one, other = relaxed.mean(1), deployed.mean(1)
    return spearman(one, other) if np.ptp(one) > 0 and np.ptp(other) > 0 else np.nan


def _ends(name: str, value: Estimate | None) -> dict[str, float | None]:
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    numbers = {f"{name}{end}": None if value is None else float(getattr(value, of)) for end, of in ends}
    return {key: None if number is None or not np.isfinite(number) else number for key, number in numbers.items()}

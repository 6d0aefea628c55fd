"""Properties of the gradient: finite, keyed by image, of the declared kind. Each docstring begins with the promise."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradprobe.testing.cases import WIDTH, Case, case_of, normal_case
from gradprobe.testing.findings import DECLARE, Broken, Skipped, Subject, first_row, tensors
from gradprobe.testing.properties import catalogues
from gradprobe.testing.readouts import curved, linear
from gradprobe.testing.sampled import moves, unbiased

STEP = 1e-6  # of the differences: both its square and the rounding error over it are far below the tolerance
N, K = 7, 3


def finite(subject: Subject) -> str:
    """Every output and gradient is finite, on every input (a key_bias may be -inf: an absent token)."""
    for plain in catalogues(subject):
        case = plain.leaf()
        selection = subject(case)
        for name, value in tensors(selection).items():
            bad = value.isnan() | value.isposinf() if name == "key_bias" else ~value.isfinite()
            if (row := first_row(bad)) is not None:
                remedy = "work with logarithms, clamp, or divide by a sum that cannot be zero"
                raise Broken(case.describe(row), f"{name} are not finite", remedy)
        grad = subject.gradient(curved(selection).sum(), case)
        if (row := first_row(~grad.isfinite())) is not None:
            remedy = "0 times infinity in a backward: use torch.where on the input too, not only on the output"
            raise Broken(case.describe(row), "the gradient is not finite", remedy)
    return "all inputs, forward and backward"


def keyed_by_image(subject: Subject) -> str:
    """Each image's result and gradient are independent of the rest of the batch."""
    case = normal_case().leaf()
    together = dict(tensors(subject(case)))
    together["gradient"] = subject.gradient(curved(subject(case)).sum(), case)
    for row in range(len(case.scores)):
        alone = case.subset([row]).leaf()
        selection = subject(alone)
        values = {**tensors(selection), "gradient": subject.gradient(curved(selection).sum(), alone)}
        for name, value in values.items():
            if name not in together or not _close(value[0], together[name][row]):
                remedy = "use no mean, sort or norm over the batch, and key every random number by image with `noise`"
                raise Broken(case.describe(row), f"{name} of an image alone and within a batch differ", remedy)
    return "a batch of 4 and each image alone"


def gradient_kind(subject: Subject) -> str:
    """Gradients are of the declared kind: exact, unbiased by sampling, biased, or none."""
    if subject.about is not None and subject.about.gradient == "unbiased":
        return unbiased(subject)
    if subject(normal_case()).log_prob is not None:
        return _score_function(subject)
    look = _look(subject)
    if subject.about is None:
        looks = "none" if not look.graph else "exact" if look.agrees else "biased, or unbiased if its mean is right"
        raise Skipped(f"nothing is declared; it looks {looks}", DECLARE)
    declared = subject.about.gradient
    where = look.case.describe()
    if declared == "none":
        if look.graph:
            raise Broken(where, "a gradient comes back", "detach the weights, or declare the gradient that it has")
        return "no graph"
    if not look.graph:
        raise Broken(where, "no gradient comes back", 'declare gradient="none", or keep the graph')
    if not look.moves:
        raise Broken(where, "the gradient is zero everywhere", 'declare gradient="none" and detach')
    if declared == "exact":
        if look.smooth < 0.5:
            message = f"the output has a slope at only {look.smooth:.0%} of the points"
            remedy = 'compute in the dtype of the scores; an output with jumps is "biased" or "unbiased"'
            raise Broken(where, message, remedy)
        if not look.agrees:
            message = f"gradient {look.gradient:.6g}, central difference {look.difference:.6g}"
            remedy = 'mend the backward, or declare gradient="biased" if it is meant to be another function\'s'
            raise Broken(where, message, remedy)
        return "equals central differences"
    if look.agrees:
        raise Broken(where, "the gradient equals central differences", 'declare gradient="exact"')
    return "is not the derivative, as declared"


def _score_function(subject: Subject) -> str:
    """Gradients are of the declared kind, for an operator with a ``log_prob``: those of a score function.

    A bias may be too small for the samples, so a gradient that is declared biased passes whatever its mean.
    """
    if subject.about is None:
        raise Skipped("nothing is declared; with a log_prob it is a score function's: unbiased, or biased", DECLARE)
    where, declared = normal_case().describe(), subject.about.gradient
    if declared in ("exact", "none"):
        remedy = 'declare gradient="unbiased", or "biased" if the log_prob is an approximation; or give no log_prob'
        raise Broken(where, f"a log_prob comes back, but the gradient is declared {declared}", remedy)
    if not moves(subject):
        raise Broken(where, "the gradient of its log_prob is zero everywhere", "keep the graph from scores to log_prob")
    try:
        return f"a score function's, {unbiased(subject)}: it may be declared unbiased"
    except Broken as broken:
        return f"a score function's, biased as declared: {broken.message}"
    except Skipped as skipped:
        return f"a score function's; {skipped.message}"


@dataclass(frozen=True)
class _Look:
    """Gradient and differences of the same read-out; the numbers are those that differ most."""

    case: Case
    graph: bool
    moves: bool
    smooth: float
    agrees: bool
    gradient: float
    difference: float


def _look(subject: Subject) -> _Look:
    """Compare the gradient of a random linear read-out with central differences, in float64 with fixed noise."""
    scores = torch.randn(4, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64).mul_(0.3)
    case = case_of(scores, K)
    leaf = case.leaf()
    coefficients = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    selection = subject(leaf)
    graph = any(value.requires_grad for value in tensors(selection).values())
    grad = subject.gradient(linear(selection, coefficients).sum(), leaf)
    moves = STEP * torch.eye(N, dtype=torch.float64)
    steps = torch.cat([torch.zeros(1, N, dtype=torch.float64), moves, -moves])
    several = _moved(case, steps)
    with torch.no_grad():
        values = linear(subject(several), coefficients).reshape(len(scores), len(steps))
    here, up, down = values[:, :1], values[:, 1 : N + 1], values[:, N + 1 :]
    right, left, central = (up - here) / STEP, (here - down) / STEP, (up - down) / (2 * STEP)
    smooth = (right - left).abs() <= 1e-3 * (1 + central.abs())  # neither a jump nor a kink within the step
    off = ((grad - central).abs() - 1e-5 * central.abs()).where(smooth, torch.full_like(central, -1.0))
    worst, share = int(off.argmax()), float(smooth.double().mean())
    return _Look(
        case.subset([worst // N]),
        graph,
        bool(grad.abs().max() > 1e-6),
        share,
        float(off.max()) <= 1e-6 and share >= 0.5,
        float(grad.flatten()[worst]),
        float(central.flatten()[worst]),
    )


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=1e-6, atol=1e-9, equal_nan=True
    )


def _moved(case: Case, steps: Tensor) -> Case:
    """Return every image at its scores plus each of the steps, with its own noise."""
    s = len(steps)
    several = case.subset([i for i in range(len(case.scores)) for _ in range(s)])
    return replace(several, scores=several.scores + steps.repeat(len(case.scores), 1))

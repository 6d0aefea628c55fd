"""Curvature: the largest eigenvalues and the trace of the Hessian of a scorer's mean loss, where there is one."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradprobe.core import AnyOperator, Noise, Task
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.contract import Budget, Reporting, Resources, Subject, question_of
from gradprobe.probes.curvature import PROBE, CurvatureSettings
from gradprobe.probes.curvature.hessian import Surface, examine, examine_rounding, in_float64
from gradprobe.probes.curvature.result import CurvatureResult
from gradprobe.probes.environment import environment
from gradprobe.probes.gradients import real_parameters
from gradprobe.probes.rounding import in_float32, rounding_of
from gradprobe.settings import takes
from gradprobe.training.train import train

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

RESTARTS = 50  # of Lanczos


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, CurvatureSettings, Budget):
    """Keyword arguments of `curvature`."""


@takes(Arguments)
def curvature(task: Task, operator: AnyOperator, given: Arguments) -> CurvatureResult:
    """Measure the largest eigenvalues and the trace of the Hessian of the mean loss in the scorer's parameters.

    ``H = (1/I) sum_i d^2 loss_i / d theta^2``, the noise of each image fixed. Eigenvalues by Lanczos (scipy's
    ``eigsh``) on Hessian-vector products, the trace as the mean of ``v^T H v`` over random signs v (Hutchinson).
    Whether there is a Hessian is measured, not taken from a list: along ``d = g/|g|`` the gradient must be what
    differences of the loss say, ``|g| = (L(theta + e d) - L(theta - e d)) / 2e``, and ``H d`` what those of g say,
    for the first batch and in float64, so that rounding does not decide. Under autocast to bfloat16 the products must
    also be those of float32, to the same tolerance.

    Returns:
        A result whose ``row()`` gives the table's numbers; without a Hessian its ``reason`` says why.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss or gradient that is not finite, too few images, an operator that breaks its contract,
            or eigenvalues that do not converge.
    """
    return measure(Subject.of(task, operator, given), given, Resources.of(given))


def measure(subject: Subject, settings: CurvatureSettings, resources: Resources) -> CurvatureResult:
    """Answer the question of a subject and settings, see `curvature`; the number of products told is an estimate."""
    question = question_of(PROBE, subject, settings)
    task, operator, k, name, seed = subject.task, subject.operator, subject.k, subject.name, settings.seed
    started = time.perf_counter()
    size = min(settings.batch_size, settings.images)
    batches = task.batches(settings.images // size, size, seed)  # refuses at once if there are too few images
    with task.running(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        train(
            task,
            operator,
            k,
            steps=settings.steps,
            seed=seed,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            progress=resources.progress,
        )
        surface = Surface(task, operator, k, name, tuple(batches), seed)
        loss = surface.loss(surface.theta, check=True)
        first = surface.batches[0]
        noise = Noise(seed, first.ids, generator=task.generator)
        rounding = rounding_of(subject, first, task.scorer(first.tokens.patches), noise)
        reason, checks = examine(in_float64(surface))
        if rounding and not reason:
            reason, rounding["hessian"] = examine_rounding(surface)
        eigenvalues, samples = settings.eigenvalues, settings.samples
        counter, expected = itertools.count(1), samples + max(20, 2 * eigenvalues + 1) + 2 + eigenvalues

        def product(v: Array) -> Array:
            hv = surface.product(torch.from_numpy(v).to(surface.theta, non_blocking=True))
            done = next(counter)
            resources.report(f"{name}: products", done, max(done, expected))
            return hv.cpu().numpy()

        rng, size = np.random.default_rng(seed), len(surface.theta)
        values, residuals, traces = np.zeros(0), np.zeros(0), np.zeros(0)
        if not reason:
            traces = np.array([v @ product(v) for v in (rng.choice([-1.0, 1.0], size) for _ in range(samples))])
            if np.isfinite(traces).all():
                start = rng.standard_normal(size)
                values, residuals = _largest(product, start, eigenvalues, settings.tolerance, name)
            else:
                reason, traces = f"its second derivative overflows in {question.get('dtype')}", np.zeros(0)
    products = {"products": next(counter) - 1}
    return CurvatureResult(
        question=question,
        reason=reason,
        eigenvalues=values,
        residuals=residuals,
        trace_samples=traces,
        checks=checks,
        loss=loss,
        environment=environment(time.perf_counter() - started, task.skipped) | products,
        rounding=rounding,
    )


def check(subject: Subject, settings: CurvatureSettings) -> dict[str, str]:
    """Refuse what the Hessian of this scorer on these images cannot be asked; no key is added to the question.

    Raises:
        UsageError: numbers that do not go together, or weights in bfloat16.
    """
    images, size = settings.images, settings.batch_size
    if images > size and images % size:
        below = images - images % size
        raise UsageError(
            f"--images {images} is not possible with --batch-size {size}; give --images {below} or {below + size}, or "
            "another --batch-size"
        )
    parameters = sum(p.numel() for p in real_parameters(subject.task.scorer).values())
    if settings.eigenvalues >= parameters:
        raise UsageError(
            f"--eigenvalues {settings.eigenvalues} is not possible: the scorer has {parameters} parameters; give fewer"
        )
    if settings.tolerance == 1:
        raise UsageError("--tolerance 1 is not possible; give a number between 0 and 1, such as 1e-3")
    if subject.task.question.get("dtype") == "bfloat16" and in_float32(subject.task) is None:
        raise UsageError("--dtype bfloat16 is too coarse for second derivatives; give float32 or float64")
    return {}


def _largest(product: Product, start: Array, count: int, tolerance: float, name: str) -> tuple[Array, Array]:
    """Eigenvalues of largest magnitude, largest first, and their residuals ``|H v - lambda v| / |lambda|``."""
    if not product(start).any():  # the Hessian is zero, and Lanczos has nowhere to go
        return np.zeros(count), np.zeros(count)
    operator = LinearOperator((len(start), len(start)), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=count, which="LM", v0=start, tol=tolerance, maxiter=RESTARTS)
    except ArpackError as error:
        reason = str(error).splitlines()[0]
        raise GradprobeError(
            f"operator {name}: the eigenvalues did not converge ({reason}); give a larger --tolerance or another "
            f"number of --eigenvalues"
        ) from None
    order = np.argsort(-np.abs(values))
    values, vectors = values[order], vectors[:, order]
    off = np.array([np.linalg.norm(product(v) - x * v) for x, v in zip(values, vectors.T, strict=True)])
    return values, off / np.maximum(np.abs(values), np.finfo(np.float64).eps * abs(values[0]))

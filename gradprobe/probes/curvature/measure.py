"""Curvature: the largest eigenvalues and the trace of the Hessian of a scorer's mean loss, where there is one."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradprobe.core import AnyOperator, SelectionOperator, Task, check_k
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.probes.curvature.hessian import Surface, examine, in_float64
from gradprobe.probes.curvature.result import CurvatureResult
from gradprobe.probes.gradients import real_parameters
from gradprobe.probes.questions import (
    Progress,
    asked_of,
    check_counts,
    check_same,
    environment,
    operator_and_k,
    operator_of,
    task_of,
)
from gradprobe.ranges import check_numbers
from gradprobe.training.train import LEARNING_RATE, train

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

RESTARTS = 50  # of Lanczos


def curvature(
    task: Task,
    operator: AnyOperator,
    k: int | None = None,
    *,
    keep: float | None = None,
    images: int = 32,
    batch_size: int = 16,
    eigenvalues: int = 5,
    samples: int = 16,
    tolerance: float = 1e-3,
    steps: int = 0,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    progress: Progress | None = None,
) -> CurvatureResult:
    """Eigenvalues of largest magnitude, and trace, of the Hessian of the mean loss in the scorer's parameters.

    ``H = (1/I) sum_i d^2 loss_i / d theta^2``, the noise of each image fixed. Eigenvalues by Lanczos (scipy's
    ``eigsh``) on Hessian-vector products, the trace as the mean of ``v^T H v`` over random signs v (Hutchinson).
    Whether there is a Hessian is measured, not taken from a list: along ``d = g/|g|`` the gradient must be what
    differences of the loss say, ``|g| = (L(theta + e d) - L(theta - e d)) / 2e``, and ``H d`` what those of g say,
    for the first batch and in float64, so that rounding does not decide.

    Args:
        task: frozen model, scorer and data; its scorer is trained in place if ``steps`` > 0.
        operator: what selects: itself, its name or its class.
        k: tokens kept, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        images: I; a multiple of ``batch_size`` if it is larger.
        batch_size: images differentiated at once, and in a batch of the training.
        eigenvalues: how many, fewer than the scorer has parameters.
        samples: of the trace, at least 2.
        tolerance: of each eigenvalue's residual, in (0, 1).
        steps: train the scorer through the operator this many steps first.
        learning_rate: of that training.
        seed: of the order of images, the noise, the training and the random vectors.
        progress: called with (what, done, of how many); how many products it takes is an estimate that may grow.

    Returns:
        A result whose ``row()`` gives the table's numbers; without a Hessian its ``reason`` says why.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss or gradient that is not finite, too few images, an operator that breaks its contract,
            or eigenvalues that do not converge.
    """
    operator, k = operator_and_k(task, operator, k, keep)
    name = registry.label(operator)
    question = question_of(
        task, operator, k, images=images, batch_size=batch_size, eigenvalues=eigenvalues, samples=samples,
        tolerance=tolerance, steps=steps, learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    tell = progress or (lambda what, done, total: None)
    started = time.perf_counter()
    size = min(batch_size, images)
    batches = task.batches(images // size, size, seed)  # refuses at once if there are too few images
    with task.running(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        train(
            task, operator, k, name, steps=steps, seed=seed, batch_size=batch_size, learning_rate=learning_rate,
            progress=progress,
        )  # fmt: skip
        surface = Surface(task, operator, k, name, tuple(batches), seed)
        loss = surface.loss(surface.theta, check=True)
        reason, checks = examine(in_float64(surface))
        counter, expected = itertools.count(1), samples + max(20, 2 * eigenvalues + 1) + 2 + eigenvalues

        def product(v: Array) -> Array:
            hv = surface.product(torch.from_numpy(v).to(surface.theta))
            done = next(counter)
            tell(f"{name}: products", done, max(done, expected))
            return hv.cpu().numpy()

        rng, size = np.random.default_rng(seed), len(surface.theta)
        values, residuals, traces = np.zeros(0), np.zeros(0), np.zeros(0)
        if not reason:
            traces = np.array([v @ product(v) for v in (rng.choice([-1.0, 1.0], size) for _ in range(samples))])
            if np.isfinite(traces).all():
                values, residuals = _largest(product, rng.standard_normal(size), eigenvalues, tolerance, name)
            else:
                reason, traces = f"its second derivative overflows in {question.get('dtype')}", np.zeros(0)
    products = {"products": next(counter) - 1}
    return CurvatureResult(
        question=question, reason=reason, eigenvalues=values, residuals=residuals, trace_samples=traces, checks=checks,
        loss=loss, environment=environment(time.perf_counter() - started, task.skipped) | products,
    )  # fmt: skip


def question_of(
    task: Task, operator: SelectionOperator, k: int, *, images: int, batch_size: int, eigenvalues: int, samples: int,
    tolerance: float, steps: int, learning_rate: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The question that a result answers: all that decides its numbers, in JSON types.

    Raises:
        UsageError: a number outside what is possible, or bfloat16.
    """
    check_k(k, task.n_tokens)
    check_counts({
        "images": (images, 1), "batch-size": (batch_size, 1), "eigenvalues": (eigenvalues, 1), "samples": (samples, 2),
        "steps": (steps, 0),
    })  # fmt: skip
    check_numbers({"seed": seed, "learning_rate": learning_rate, "tolerance": tolerance})
    if images > batch_size and images % batch_size:
        below = images - images % batch_size
        raise UsageError(
            f"--images {images} is not possible with --batch-size {batch_size}; give --images {below} or "
            f"{below + batch_size}, or another --batch-size"
        )
    parameters = sum(p.numel() for p in real_parameters(task.scorer).values())
    if eigenvalues >= parameters:
        raise UsageError(
            f"--eigenvalues {eigenvalues} is not possible: the scorer has {parameters} parameters; give fewer"
        )
    if not 0 < tolerance < 1:
        raise UsageError(f"--tolerance {tolerance:g} is not possible; give a number between 0 and 1, such as 1e-3")
    if task.question.get("dtype") == "bfloat16":
        raise UsageError("--dtype bfloat16 is too coarse for second derivatives; give float32 or float64")
    settings: dict[str, Any] = {
        "images": images, "batch_size": batch_size, "eigenvalues": eigenvalues, "samples": samples,
        "tolerance": tolerance, "steps": steps, "seed": seed,
    }  # fmt: skip
    if steps:
        settings["learning_rate"] = learning_rate
    return asked_of("curvature", task, operator, k, settings)


def answer(question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None) -> CurvatureResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` writes it.
        where: ``weights``, ``data`` and ``device``, where they differ from the defaults.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    task, operator = task_of(question, where), operator_of(question)
    names = ("k", "images", "batch_size", "eigenvalues", "samples", "tolerance", "steps", "seed")
    settings = {name: question[name] for name in names}
    settings["learning_rate"] = question.get("learning_rate", LEARNING_RATE)
    check_same(question_of(task, operator, **settings), question)
    return curvature(task, operator, **settings, progress=progress)


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

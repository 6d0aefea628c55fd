"""Time of the budgeted soft top-K, forward and backward, and of its peers over ours.

Peers and their formulas are those of `bench_softtopk`. Ours solves in float64, they in float32.
"""

from functools import partial
from typing import Any

import torch
from bench_softtopk import BATCH, ELEMENTS, KEEP, PATIENCE, SIZES, TAU, peers
from torch import Tensor

from gpu_steps.report import Report
from gpu_steps.step import Setup
from gpu_steps.timing import milliseconds, seconds

OURS = "ours laplace"
REPEATS = 30


def settings(setup: Setup) -> dict[str, Any]:
    """Return the sizes and the task that all solve."""
    sizes = (49,) if setup.tiny else SIZES
    return {
        "sizes": sizes,
        "batch": 2 if setup.tiny else BATCH,
        "keep": KEEP,
        "tau": TAU,
        "dtype": "float32",
        "seed": 0,
    }


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Time every solver that fits at every size."""
    operators, batch = peers(), settings["batch"]
    for n in settings["sizes"]:
        generator = torch.Generator().manual_seed(settings["seed"])
        scores, upstream = (torch.randn(batch, n, generator=generator).to(setup.device) for _ in range(2))
        ours = None
        for name, (operator, share) in operators.items():
            if batch * share * n * n > ELEMENTS or report.has(n=n, operator=name):
                continue
            if report.over(f"{name} at N = {n}"):
                break
            op = partial(operator, k=float(round(KEEP * n)), tau=TAU)
            took = _both(op, scores, upstream, setup)
            ours = took if name == OURS else ours
            ratio = None if ours is None else took / ours
            report.row({"n": n, "operator": name, "ms": took, "over_ours": ratio})
        _line(report, n)


def _both(op: Any, scores: Tensor, upstream: Tensor, setup: Setup) -> float:
    """Return the median milliseconds of a forward and a backward pass; of a slow one, of a single pass."""
    leaf = scores.clone().requires_grad_()

    def call() -> None:
        torch.autograd.grad(op(leaf), leaf, upstream)

    call()
    first = seconds(call, setup.device)
    if first > PATIENCE:
        return 1000 * first
    return milliseconds(call, setup.device, 2 if setup.tiny else REPEATS)


def _line(report: Report, n: int) -> None:
    rows = {row["operator"]: row for row in report.rows if row["n"] == n}
    if OURS in rows:
        others = {name: row["over_ours"] for name, row in rows.items() if name not in (OURS, "ours logistic")}
        beside = ", ".join(f"{name} {ratio:.1f} x" for name, ratio in others.items() if ratio)
        report.line(f"N = {n}", f"{rows[OURS]['ms']:.3g} ms; {beside}")

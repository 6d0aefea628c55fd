"""Time of the budgeted soft top-K against its peers, forward and backward.

Every peer solves the same task: scores ``(32, N)`` to weights in [0, 1] that sum to K, then one reverse pass. They are
written here from their formulas, in float32 as their users run them; ours solves in float64. All are timed in turns,
so that a busy machine slows all alike, and compared by medians.

    python benchmarks/bench_softtopk.py --json bench_softtopk.json
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from gradprobe.operators.softtopk import soft_topk

SIZES = (196, 2880, 32768)
BATCH, KEEP, TAU = 32, 0.3, 1.0
PATIENCE = 1.0  # seconds: what takes longer is timed once
ELEMENTS = 1 << 27  # largest matrix worth timing: half a GiB of float32, several times in a backward pass


class Implicit(torch.autograd.Function):
    """Weights from any threshold search; the backward is the implicit one that all thresholds share."""

    @staticmethod
    def forward(ctx, scores: Tensor, k: float, tau: float, search: Callable, cdf: Callable, density: Callable):
        """F((s - b) / tau)."""
        x = (scores - search(scores, k, tau, cdf)) / tau
        ctx.save_for_backward(density(x))
        ctx.tau = tau
        return cdf(x)

    @staticmethod
    def backward(ctx, v: Tensor):
        """(diag f - f f^T / sum f) v / tau."""
        (f,) = ctx.saved_tensors
        mean = (f * v).sum(-1, keepdim=True) / f.sum(-1, keepdim=True)
        return f * (v - mean) / ctx.tau, None, None, None, None, None


def bisect(scores: Tensor, k: float, tau: float, cdf: Callable) -> Tensor:
    """Fifty halvings of the interval that surely holds the threshold."""
    reach = tau * 2 * math.log(2 * scores.shape[-1])
    low, high = scores.amin(-1, keepdim=True) - reach, scores.amax(-1, keepdim=True) + reach
    for _ in range(50):
        middle = (low + high) / 2
        above = cdf((scores - middle) / tau).sum(-1, keepdim=True) > k
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def laplace_cdf(x: Tensor) -> Tensor:
    tail = torch.exp(-x.abs()) / 2
    return torch.where(x < 0, tail, 1 - tail)


def laplace_density(x: Tensor) -> Tensor:
    return torch.exp(-x.abs()) / 2


def logistic_density(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def sinkhorn(scores: Tensor, k: float, tau: float, _: Callable) -> Tensor:
    """Entropic optimal transport to the anchors 0 (mass N - K) and 1 (mass K), 200 iterations on the potentials.

    The cost is (s - anchor)^2 and eps = 2 tau; alpha is then logistic in (s - b) / tau.
    """
    eps, n = 2 * tau, scores.shape[-1]
    cost = torch.stack([scores**2, (scores - 1) ** 2], -1) / -eps
    log_nu = scores.new_tensor([(n - k) / n, k / n]).log()
    g = scores.new_zeros(*scores.shape[:-1], 1, 2)
    for _i in range(200):
        f = -math.log(n) - (cost + g).logsumexp(-1, keepdim=True)
        g = log_nu - (cost + f).logsumexp(-2, keepdim=True)
    return tau * (g[..., 0] - g[..., 1]) + 0.5


def softsort(scores: Tensor, k: float, tau: float) -> Tensor:
    """Prillo and Eisenschlos 2020: the first K rows of softmax(-|sort(s) - s| / tau), summed."""
    ranked = scores.sort(-1, descending=True).values[..., : round(k)]
    return torch.softmax(-(ranked.unsqueeze(-1) - scores.unsqueeze(-2)).abs() / tau, -1).sum(-2)


def difftopk_softsort() -> Callable | None:
    """Return the SoftSort of difftopk, if that package is installed."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints about an optional dependency when imported
        try:
            import difftopk
        except ImportError:
            return None
    return lambda s, k, tau: difftopk.SoftSort(tau=tau)(s)[:, : round(k)].sum(1)


def peers() -> dict[str, tuple[Callable, float]]:
    """Name -> the operator, and the elements of its largest tensor over 32 N^2 (0: it is no matrix)."""
    found = {
        "ours laplace": (partial(soft_topk, cdf="laplace"), 0),
        "ours logistic": (partial(soft_topk, cdf="logistic"), 0),
        "bisection": (lambda s, k, tau: Implicit.apply(s, k, tau, bisect, laplace_cdf, laplace_density), 0),
        "sinkhorn": (lambda s, k, tau: Implicit.apply(s, k, tau, sinkhorn, torch.sigmoid, logistic_density), 0),
        "softsort": (softsort, KEEP),
    }
    package = difftopk_softsort()
    return found | ({"difftopk": (package, 1)} if package else {})


def check(operators: dict[str, tuple[Callable, float]]) -> None:
    """Check the peers: the same weights as ours where the formula is the same, and a sum of K."""
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    ours = {cdf: soft_topk(scores, 15.0, TAU, cdf) for cdf in ("laplace", "logistic")}
    for name, (operator, _) in operators.items():
        weights = operator(scores, 15.0, TAU)
        torch.testing.assert_close(weights.sum(-1), torch.full((4,), 15.0), atol=1e-3, rtol=0)
        same = {"bisection": "laplace", "sinkhorn": "logistic"}.get(name)
        if same:
            torch.testing.assert_close(weights, ours[same], atol=1e-4, rtol=0)


def measure(operators: dict[str, tuple[Callable, float]], n: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of the forward pass, and of forward and backward, operator by operator in turns."""
    generator = torch.Generator().manual_seed(n)
    scores = torch.randn(BATCH, n, generator=generator)
    leaf, v = scores.clone().requires_grad_(), torch.randn(BATCH, n, generator=generator)
    names = {"s": scores, "leaf": leaf, "v": v, "torch": torch}
    timers, seconds = {}, {}
    for name, (operator, _) in operators.items():
        op = {"op": partial(operator, k=float(round(KEEP * n)), tau=TAU)}
        for way, code in (("forward", "op(s)"), ("both", "torch.autograd.grad(op(leaf), leaf, v)")):
            timers[name, way] = Timer(code, globals=names | op, num_threads=torch.get_num_threads())
            start = time.perf_counter()
            eval(code, names | op)
            seconds[name, way] = [time.perf_counter() - start]
    quick = {key for key, (first,) in seconds.items() if first < PATIENCE}  # the others are timed this once
    repeats = {key: max(1, min(50, int(0.02 / timers[key].timeit(1).median))) for key in quick}
    for _ in range(rounds):
        for key in timers:
            if key in quick:
                seconds[key].append(timers[key].timeit(repeats[key]).median)
    return {
        name: {way: statistics.median(seconds[name, way][-rounds:]) for way in ("forward", "both")}
        for name in operators
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--rounds", type=int, default=15, help="turns; the median over them is reported")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="N")
    args = parser.parse_args()
    operators, rows = peers(), []
    check(operators)
    if "difftopk" not in operators:
        print("difftopk is not installed: left out")
    print(f"batch {BATCH}, K = {KEEP} N, tau = {TAU}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'N':>6} {'operator':14} {'forward ms':>11} {'both ms':>9} {'forward/ours':>13} {'both/ours':>10}")
    for n in args.sizes:
        fits = {name: op for name, op in operators.items() if BATCH * op[1] * n * n <= ELEMENTS}
        times = measure(fits, n, args.rounds)
        ours = times["ours laplace"]
        for name, took in times.items():
            ratio = {way: took[way] / ours[way] for way in took}
            rows.append({"n": n, "operator": name, "seconds": took, "ratio": ratio})
            print(
                f"{n:6} {name:14} {took['forward'] * 1e3:11.3f} {took['both'] * 1e3:9.3f}"
                f" {ratio['forward']:13.2f} {ratio['both']:10.2f}"
            )
        for name in operators.keys() - fits.keys():
            print(f"{n:6} {name:14} left out: its matrix is {BATCH} x {round(operators[name][1] * n)} x {n}")
    growth = [row for row in rows if row["operator"] == "ours laplace"]
    for small, large in itertools.pairwise(growth):
        grown = large["seconds"]["both"] / small["seconds"]["both"]
        work = large["n"] * math.log(large["n"]) / (small["n"] * math.log(small["n"]))
        print(f"from N = {small['n']} to {large['n']}: our time grows {grown:.1f} times, N log N {work:.1f} times")
    if args.json:
        settings = {"batch": BATCH, "keep": KEEP, "tau": TAU, "threads": torch.get_num_threads()}
        args.json.write_text(json.dumps({"settings": settings | {"torch": torch.__version__}, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

"""Time of every relaxation, forward and backward, against its public counterpart or the textbook form of its formula.

Scores ``(32, N)`` to weights, then one reverse pass, K = 30 %. A counterpart computes the same weights by the same
formula (checked at N = 50), written as in the paper or taken from difftopk and torchsort where these are installed; it
reads the same noise. All are timed in turns, in seconds that one torch thread computes (what else runs on the machine
counts little), and compared by the median, over rounds, of the ratio within a round.

    python benchmarks/bench_operators.py --json bench_operators.json
"""

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.operators import registry
from gradprobe.operators.softtopk import soft_topk

SIZES, BATCH, KEEP, TAU = (196, 2880), 32, 0.3, 1.0
PATIENCE = 2.0  # seconds: what takes longer is timed in two rounds only
Textbook = Callable[[Tensor, int, Noise], Tensor]


def bisected(cdf: Callable[[Tensor], Tensor], reach: float) -> Textbook:
    """Compute a soft top-K by fifty halvings, differentiated through one last Newton step, as is usual."""

    def weights(s: Tensor, k: int, noise: Noise) -> Tensor:
        with torch.no_grad():
            low, high = s.amin(-1, keepdim=True) - reach, s.amax(-1, keepdim=True) + reach
            for _ in range(50):
                middle = (low + high) / 2
                above = cdf(s - middle).sum(-1, keepdim=True) > k
                low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        b = low.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(cdf(s.detach() - b).sum(), b)
        moved = low.detach() - (cdf(s - low.detach()).sum(-1, keepdim=True) - k) / slope
        return cdf(s - moved)

    return weights


def laplace(x: Tensor) -> Tensor:
    tail = torch.exp(-x.abs()) / 2
    return torch.where(x < 0, tail, 1 - tail)


def gumbels(s: Tensor, noise: Noise) -> Tensor:
    return s + noise.gumbel(s.shape[1:], like=s)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    return hard + soft - soft.detach()


def softsort(s: Tensor, k: int, noise: Noise) -> Tensor:
    ranked = s.sort(-1, descending=True).values[:, :k]
    return torch.softmax(-(ranked[:, :, None] - s[:, None, :]).abs(), -1).sum(1).clamp(max=1)


def neuralsort(s: Tensor, k: int, noise: Noise) -> Tensor:
    n = s.shape[-1]
    distances = (s[:, :, None] - s[:, None, :]).abs().sum(-1)
    ranks = n + 1 - 2 * torch.arange(1, k + 1, dtype=s.dtype)
    return torch.softmax(ranks[:, None] * s[:, None, :] - distances[:, None, :], -1).sum(1).clamp(max=1)


def relaxed_subset(s: Tensor, k: int, noise: Noise) -> Tensor:
    keys, khot, onehot = gumbels(s, noise), torch.zeros_like(s), torch.zeros_like(s)
    for _ in range(k):
        keys = keys + torch.log((1 - onehot).clamp(min=torch.finfo(s.dtype).tiny))
        onehot = torch.softmax(keys / TAU, -1)
        khot = khot + onehot
    return khot.clamp(max=1)


def perturbed(s: Tensor, k: int, noise: Noise) -> Tensor:
    """Masks and noise kept for the Jacobian of the mean, which is made as the matrix that it is."""
    z = noise.normal((100, s.shape[-1]), like=s)
    masks = top_k_mask((s.detach()[:, None] + z).flatten(0, 1), k).view_as(z)
    jacobian = torch.einsum("brn,brm->bnm", masks - masks.mean(1, keepdim=True), z) / 99
    soft = torch.einsum("bnm,bm->bn", jacobian, s)
    return straight_through(masks.mean(1), soft)


def log_count(s: Tensor, k: int) -> Tensor:
    """``log P(K heads)`` of coins ``sigmoid(s)``, but for a factor: the dynamic programme over tokens, ``(B,)``."""
    p = torch.sigmoid(s)
    table = torch.zeros(len(s), k + 1, dtype=torch.float64)
    table[:, 0] = 1.0
    for i in range(s.shape[-1]):
        coin = p[:, i : i + 1]
        table = table * (1 - coin) + torch.nn.functional.pad(table[:, :-1], (1, 0)) * coin
    return table[:, -1].log() - torch.nn.functional.logsigmoid(-s).sum(-1)


def marginals(s: Tensor, k: int, noise: Noise) -> Tensor:
    s = s if s.requires_grad else s.detach().requires_grad_()
    with torch.enable_grad():
        (mu,) = torch.autograd.grad(log_count(s.double(), k).sum(), s, create_graph=True)
    return mu.to(s.dtype)


def plackett_luce(s: Tensor, k: int, noise: Noise) -> Tensor:
    """Compute the log-probability by a loop over the draws."""
    order = gumbels(s.detach(), noise).argsort(-1, descending=True)
    drawn, total = s.gather(-1, order), torch.zeros(len(s))
    for j in range(k):
        total = total + drawn[:, j] - drawn[:, j:].logsumexp(-1)
    return total[:, None]


def soft(s: Tensor, k: int, tau: float = 1.0) -> Tensor:
    return soft_topk(s, k, tau, cdf="logistic")


def difftopk_softsort() -> Textbook | None:
    """Return the SoftSort of difftopk, if it is installed; its whole matrix is made."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints about an optional dependency when imported
        try:
            import difftopk
        except ImportError:
            return None
    return lambda s, k, noise: difftopk.SoftSort(tau=1.0)(s)[:, :k].sum(1).clamp(max=1)


def torchsort_ranks() -> Textbook | None:
    """Select by torchsort's soft ranks, another formula: for the time alone."""
    try:
        import torchsort
    except ImportError:
        return None
    return lambda s, k, noise: torch.sigmoid(k + 0.5 - torchsort.soft_rank(-s))


COUNTERPARTS: dict[str, dict[str, Textbook]] = {
    "lapsum": {"bisection": bisected(laplace, 10.0)},
    "logistic": {"bisection": bisected(torch.sigmoid, 10.0)},
    "probit": {"bisection": bisected(torch.special.ndtr, 10.0)},
    "capped-simplex": {"bisection": bisected(lambda x: (x + 0.5).clamp(0, 1), 1.0)},
    "softsort": {"textbook": softsort},
    "neuralsort": {"textbook": neuralsort},
    "relaxed-subset": {"textbook": relaxed_subset},
    "perturbed": {"textbook": perturbed},
    "simple:forward=marginal": {"textbook": marginals},
    "plackett-luce": {"textbook": plackett_luce},
}


def ours(name: str) -> Textbook:
    relaxation = registry.part("relaxation", name)
    if name == "plackett-luce":
        return lambda s, k, noise: relaxation.log_prob(s, k, noise)[:, None]
    return lambda s, k, noise: relaxation(s, k, noise)


def contenders() -> dict[str, dict[str, Textbook]]:
    """Relaxation -> ours and its counterparts."""
    found = {name: {"ours": ours(name)} | COUNTERPARTS.get(name, {})
             for name in [*registry.RELAXATIONS, "simple:forward=marginal"]}  # fmt: skip
    if package := difftopk_softsort():
        found["softsort"]["difftopk"] = package
    if package := torchsort_ranks():
        found["lapsum"]["torchsort ranks"] = package
    return found


def check(found: dict[str, dict[str, Textbook]]) -> None:
    """Check that a counterpart gives the same weights and the same gradient as ours."""
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    v = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    for name, ways in found.items():
        seen = []
        for way, run in ways.items():
            if way == "torchsort ranks":
                continue
            leaf = scores.clone().requires_grad_()
            weights = run(leaf, 15, Noise(0, range(4)))
            if weights.requires_grad:
                up = v if weights.shape == v.shape else v[:, :1]
                seen.append((weights.detach(), torch.autograd.grad(weights, leaf, up)[0]))
        for mine, theirs in zip(seen[:1] * len(seen), seen, strict=True):
            torch.testing.assert_close(theirs[0], mine[0], atol=2e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
            torch.testing.assert_close(theirs[1], mine[1], atol=2e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def once(run: Textbook, leaf: Tensor, v: Tensor, k: int, noise: Noise) -> float:
    """Seconds of a forward and a backward pass."""
    start = time.thread_time()
    weights = run(leaf, k, noise)
    if weights.requires_grad:
        torch.autograd.grad(weights, leaf, v if weights.shape == v.shape else v[:, :1])
    return time.thread_time() - start


def measure(ways: dict[str, Textbook], n: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, in turns."""
    leaf = torch.randn(BATCH, n, generator=torch.Generator().manual_seed(n)).requires_grad_()
    v = torch.randn(BATCH, n, generator=torch.Generator().manual_seed(n + 1))
    k, noise = round(KEEP * n), Noise(0, range(BATCH))
    first = {way: once(run, leaf, v, k, noise) for way, run in ways.items()}
    turns = 2 if max(first.values()) > PATIENCE else rounds
    every = [[once(run, leaf, v, k, noise) for run in ways.values()] for _ in range(turns)]
    return {way: [turn[i] for turn in every] for i, way in enumerate(ways)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--rounds", type=int, default=9, help="turns")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, rows = contenders(), []
    check(found)
    print(f"batch {BATCH}, K = {KEEP} N, CPU time of one thread, torch {torch.__version__}")
    print(f"{'N':>5} {'relaxation':24} {'ours ms':>9} {'counterpart':>16} {'ms':>9} {'theirs/ours':>12}")
    for n in args.sizes:
        for name, ways in found.items():
            seconds = measure(ways, n, args.rounds)
            mine = statistics.median(seconds["ours"]) * 1e3
            others = [way for way in ways if way != "ours"] or ["–"]
            for way in others:
                theirs = statistics.median(seconds[way]) * 1e3 if way in seconds else None
                ratio = theirs and statistics.median(t / o for t, o in zip(seconds[way], seconds["ours"], strict=True))
                rows.append({"n": n, "relaxation": name, "ours_ms": mine, "way": way, "ms": theirs, "ratio": ratio})
                told = f"{theirs:9.2f} {ratio:12.2f}" if theirs and ratio else ""
                print(f"{n:5d} {name:24} {mine:9.2f} {way:>16} {told}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Properties of every operator: each function returns its observation, or raises `Broken` or `Skipped`.

The first line of each docstring is the promise, as users read it.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.devices import cuda_available
from gradprobe.testing.cases import DTYPES, TOKENS, Case, budgets, catalogue, normal_case
from gradprobe.testing.findings import Broken, Skipped, Subject, all_in_order, first_row, same, tensors

Property = Callable[[Subject], str]
SUM_TO_K = "make them sum to K, or declare the tolerance: About(budget=...), or None"
IN_LOW_PRECISION = (
    "it holds in float64: compute the weights from scores.double() and return weights.to(scores.dtype), or renormalise "
    "them last (weights * k / weights.sum(-1, keepdim=True), where none exceeds 1 by that)"
)
KEYED = "draw all random numbers from `noise`, with noise.normal(shape, like=x), .uniform, .gumbel or .gamma"


def call(subject: Subject) -> str:
    """Every budget and precision gives a Selection of the promised shapes, dtypes and device."""
    devices = ("cpu", "cuda") if cuda_available() else ("cpu",)
    for device, dtype in itertools.product(devices, DTYPES):
        for k in budgets(TOKENS):
            case = normal_case(k, dtype).to(device)
            for name, value in tensors(subject(case)).items():
                wanted = torch.int64 if name == "index" else dtype
                if value.dtype != wanted or value.device != case.scores.device:
                    message = f"{name} is {value.dtype} on {value.device}"
                    raise Broken(case.describe(), message, f"return {name} as {wanted} on the device of the scores")
                if name == "index" and not bool(((value >= 0) & (value < TOKENS)).all()):
                    message = f"index reaches from {int(value.min())} to {int(value.max())}"
                    raise Broken(case.describe(), message, "index names the original of each token, 0 .. N - 1")
    return f"{len(DTYPES)} precisions, K in {budgets(TOKENS)}, on {' and '.join(devices)}"


def weights_in_range(subject: Subject) -> str:
    """Weights lie in [0, 1]."""
    for case in catalogues(subject):
        weights = subject(case).weights
        if (row := first_row(~((weights >= 0) & (weights <= 1)))) is not None:
            low, high = weights[row].aminmax()
            message = f"weights from {low:.6g} to {high:.6g}"
            remedy = "a weight is the share of a token that is kept: clamp or normalise it"
            raise Broken(case.describe(row), message, remedy)
    return "all inputs"


def budget(subject: Subject) -> str:
    """Weights sum to K, as nearly as declared in float64 and within rounding in other precisions."""
    promised = subject.declared().budget
    if promised is None:
        raise Skipped("it declares that no budget is kept")
    worst = 0.0
    for case in catalogues(subject):
        n = case.scores.shape[1]
        off = (subject(case).weights.double().sum(1) - case.k).abs() / n
        exact = case.scores.dtype == torch.float64
        bound = promised if exact else max(promised, torch.finfo(case.scores.dtype).eps)
        worst = max(worst, float(off.max()) if exact else 0.0)
        if (row := first_row(~(off <= bound))) is not None:
            message = f"|sum of the weights - K| / N is {float(off[row]):.3g}, more than {bound:.3g}"
            low = not exact and torch.float64 in subject.dtypes
            raise Broken(case.describe(row), message, IN_LOW_PRECISION if low else SUM_TO_K)
    return f"off by at most {worst:.1g} N"


def identity(subject: Subject) -> str:
    """With every token kept (K = N) nothing changes, bit for bit."""
    for dtype in subject.dtypes:
        case = catalogue(dtype, TOKENS)
        selection = subject(case)
        n = case.scores.shape[1]
        index = selection.index
        if selection.tokens.shape[1] != n:
            message = f"{selection.tokens.shape[1]} of {n} tokens are sent on"
            raise Broken(case.describe(), message, "send all where k == N")
        wrong = {
            "index": None if index is None else index != torch.arange(n, device=index.device),
            "tokens": ~(selection.tokens == case.patches),
            "key_bias": None if selection.key_bias is None else selection.key_bias != 0,
            "self_bias": None if selection.self_bias is None else selection.self_bias != 0,
        }
        for name, where in wrong.items():
            if where is not None and (row := first_row(where)) is not None:
                remedy = "where k == scores.shape[-1], let all weights be exactly one, and weight one change nothing"
                raise Broken(case.describe(row), f"{name} differ from the unpruned model's", remedy)
    return "all inputs"


def equivariance(subject: Subject) -> str:
    """Renumbering the tokens renumbers the weights, and the tokens where no noise is drawn."""
    case = normal_case()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(6))
    moved = replace(case, scores=case.scores[:, order], patches=case.patches[:, order])
    here, other = subject(case), subject(replace(case, noise=Noise(1, case.noise.ids)))
    if not torch.equal(here.weights, other.weights):
        raise Skipped("its weights are random")
    there = subject(moved)
    if not _near(here.weights[:, order], there.weights):
        remedy = "a token's place must not matter: no weight may depend on the index"
        raise Broken(case.describe(), "the weights of renumbered tokens are others", remedy)
    if not same(here, other):
        return "weights; tokens are random"
    one, two = all_in_order(here, TOKENS), all_in_order(there, TOKENS)
    for name, value in tensors(one).items():
        if value.ndim > 1 and not _near(value[:, order], tensors(two)[name]):
            message = f"the {name} of renumbered tokens are others"
            raise Broken(case.describe(), message, "act on each token by its weight")
    return "weights and tokens"


def repeatable(subject: Subject) -> str:
    """Equal noise gives equal bits: called again, in another thread, and without a graph."""
    case = normal_case()
    first = subject(case)
    with ThreadPoolExecutor(1) as pool, torch.no_grad():
        again = {
            "called again": subject(normal_case()),
            "in another thread": pool.submit(subject, case).result(),
            "with a graph": pool.submit(subject, case.leaf()).result(),
        }
    for how, other in again.items():
        if not same(first, other):
            raise Broken(case.describe(), f"{how} it gives another result", f"keep no state, and {KEYED}")
    return ", ".join(again)


def fresh_noise(subject: Subject) -> str:
    """Other noise gives another result if it is declared stochastic, and the same if not."""
    stochastic = subject.declared().stochastic
    case = normal_case()
    first = subject(case)
    if not same(first, subject(case)):
        raise Skipped("equal noise gives another result already")
    noise = case.noise
    others = {
        "another seed": replace(noise, seed=1),
        "another draw": noise.draw(1),
        "another image": replace(noise, ids=[i + 100 for i in noise.ids]),
    }
    for what, other in others.items():
        if same(first, subject(replace(case, noise=other))) == stochastic:
            message = f"{what} gives {'the same' if stochastic else 'another'} result"
            remedy = (
                f"declare About(stochastic={not stochastic}), or {KEYED}" if stochastic else "declare stochastic=True"
            )
            raise Broken(case.describe(), message, remedy)
    return "stochastic" if stochastic else "deterministic"


def catalogues(subject: Subject) -> Iterator[Case]:
    """Yield every kind of scores, with every budget, in every precision that the operator takes."""
    for dtype in subject.dtypes:
        for k in budgets(TOKENS):
            yield catalogue(dtype, k)


def _near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)

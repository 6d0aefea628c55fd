"""Contract of operators: every built-in keeps it, and each property detects the fault planted for it."""

import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from planted import Planted, exact

import gradprobe as gp
from gradprobe.core import Operator, Selection
from gradprobe.operator_info import About
from gradprobe.operators import registry
from gradprobe.operators.softtopk import soft_topk
from gradprobe.testing import PROPERTIES, BrokenContract, check_operator, examine

PAIRS = {
    **{name: registry.ALIASES.get(name, f"{name}+gather") for name in registry.RELAXATIONS},
    **{f"throttle {name}": f"lapsum+{name}" for name in registry.THROTTLES},
}
VARIANTS = (
    "lapsum:tau=0.03+attention", "logistic:tau=0.1+scale", "gumbel-ste:backward=soft+zero", "gumbel-ste:scale=0+zero",
    "hard+vpnoise", "random+scale", "lapsum+vpnoise:sigma=unit", "lapsum+vpnoise:sigma=0",
    "simple:forward=marginal+vpnoise", "imle:lam=norm+gather", "gumbel-softmax+attention",
)  # fmt: skip


@pytest.mark.parametrize("spec", [*PAIRS.values(), *VARIANTS])
def test_every_built_in_keeps_every_promise(spec):
    check_operator(spec)


def other_weights(change):
    def act(patches, scores, k, noise):
        weights = soft_topk(scores, k)
        weights = weights if k == scores.shape[1] else change(weights, scores)
        return Selection(patches * weights[..., None], weights)

    return act


def then(change):
    """`exact` with its selection changed."""

    def act(patches, scores, k, noise):
        return change(exact(patches, scores, k, noise), patches, scores, k, noise)

    return act


def first(do):
    """`exact` after something else was done."""

    def act(patches, scores, k, noise):
        do(patches, scores)
        return exact(patches, scores, k, noise)

    return act


def noisy(noise_of):
    def act(patches, scores, k, noise):
        weights = soft_topk(scores, k)
        dropped = (1 - weights)[..., None] * noise_of(noise).normal(patches.shape[1:], like=patches)
        return Selection(patches * weights[..., None] + dropped, weights)

    return act


def nowhere_finite(selection, patches, scores, k, noise):
    width = scores.amax(1) - scores.amin(1)
    extra = (width / width - 1)[:, None, None] * (k < scores.shape[1])
    return selection if k == scores.shape[1] else replace(selection, tokens=selection.tokens + extra)


def infinite_backward(selection, patches, scores, k, noise):
    spread = (scores - scores.mean(1, keepdim=True)).square().sum(1).sqrt()  # its derivative at 0 is 0 / 0
    return replace(selection, tokens=selection.tokens + 0 * torch.nan_to_num(spread)[:, None, None])


CALLS = itertools.count(1)


def another_each_time(selection, patches, scores, k, noise):
    if k == scores.shape[1]:
        return selection
    return replace(selection, tokens=selection.tokens + 1e-6 * next(CALLS))


def off_thread(selection, *_):
    here = threading.current_thread() is threading.main_thread()
    return selection if here else replace(selection, tokens=selection.tokens + 1e-6)


def uneven(patches, scores, k, noise):
    place = torch.arange(scores.shape[1], dtype=scores.dtype)
    return exact(patches, scores + place / 10, k, noise)


def half_the_first(selection, patches, scores, k, noise):
    share = torch.ones_like(scores)
    share[:, 0] = 1.0 if k == scores.shape[1] else 0.5
    return replace(selection, tokens=selection.tokens * share[..., None])


def of_the_batch(patches, scores, k, noise):
    weights = soft_topk(scores, k, 1 + scores.detach().double().mean().abs())
    return Selection(patches * weights[..., None], weights)


def gradient_of_the_batch(patches, scores, k, noise):
    return exact(patches, scores + (scores.mean(0) - scores.mean(0).detach()), k, noise)


def misplaced(selection, patches, scores, k, noise):
    return replace(selection, index=torch.arange(scores.shape[1]).flip(0).expand(scores.shape))


def broken_backward(patches, scores, k, noise):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no way back")

    return exact(patches, Bad.apply(scores), k, noise)


def numpy_only(patches, scores, k, noise):
    scores.detach().numpy()  # numpy has no bfloat16
    return exact(patches, scores, k, noise)


def raises(patches, scores, k, noise):
    raise ValueError("I am broken")


LAX = About("alpha_i x_i", "exact")
DRAWS = replace(LAX, stochastic=True, budget=1e-9)
FAULTS = {
    "raises": (Planted(raises), {"call", "inputs"}),
    "a tensor": (Planted(lambda patches, scores, k, noise: patches), {"call"}),
    "nothing": (Planted(lambda patches, scores, k, noise: None), {"call"}),
    "a selection of nothing": (Planted(lambda *_, noise=None: Selection(None, None)), {"call"}),
    "three arguments": (Planted(lambda patches, scores, k, noise: soft_topk(scores)), {"call", "inputs"}),
    "shape": (Planted(then(lambda s, *_: replace(s, weights=s.weights[:, :2]))), {"call"}),
    "dtype": (Planted(then(lambda s, *_: replace(s, weights=s.weights.float())), LAX), {"call"}),
    "one dtype": (Planted(numpy_only), {"call"}),
    "index": (Planted(then(lambda s, p, x, *_: replace(s, index=torch.full(x.shape, 99)))),
              {"call", "identity", "equivariance", "gradient"}),
    "above one": (Planted(other_weights(lambda w, s: 1.5 * w), LAX), {"weights"}),
    "nan weights": (Planted(then(lambda s, *_: replace(s, weights=s.weights / 0 * 0))),
                    {"weights", "budget", "finite"}),
    "budget": (Planted(other_weights(lambda w, s: w**1.1)), {"budget"}),
    "not the identity": (Planted(then(lambda s, *_: replace(s, tokens=s.tokens * (1 + 1e-2)))), {"identity"}),
    "not in order": (Planted(then(misplaced)), {"identity", "equivariance"}),
    "a bias": (Planted(then(lambda s, p, x, *_: replace(s, key_bias=torch.full_like(x, 1e-2)))), {"identity"}),
    "by place": (Planted(uneven), {"equivariance"}),
    "tokens by place": (Planted(then(half_the_first)), {"equivariance"}),
    "another each time": (Planted(then(another_each_time)), {"repeatable", "keyed by image"}),
    "by thread": (Planted(then(off_thread)), {"repeatable"}),
    "by grad mode": (
        Planted(then(lambda s, p, x, *_: replace(s, tokens=s.tokens + 1e-9 * x.requires_grad) if len(x) == 4 else s)),
        {"repeatable"},
    ),
    "not stochastic": (Planted(exact, DRAWS), {"fresh noise"}),
    "stochastic": (Planted(noisy(lambda n: n)), {"fresh noise"}),
    "deaf to the draw": (Planted(noisy(lambda n: n.draw(0)), DRAWS), {"fresh noise"}),
    "noise by place": (Planted(noisy(lambda n: gp.Noise(n.seed, range(len(n.ids)), n.index)), DRAWS),
                       {"fresh noise", "keyed by image", "gradient"}),
    "in place": (Planted(first(lambda p, s: p.mul_(1))), {"inputs"}),
    "behind autograd": (Planted(first(lambda p, s: p.data.clamp_(min=-1))), {"identity", "inputs"}),
    "asks for a gradient": (Planted(first(lambda p, s: p.requires_grad_())), {"inputs"}),
    "torch's generator": (Planted(first(lambda p, s: torch.rand(1))), {"surroundings"}),
    "numpy's generator": (Planted(first(lambda p, s: np.random.rand())), {"surroundings"}),  # noqa: NPY002
    "python's generator": (Planted(first(lambda p, s: random.random())), {"surroundings"}),
    "threads": (Planted(first(lambda p, s: torch.set_num_threads(2))), {"surroundings"}),
    "default dtype": (Planted(first(lambda p, s: torch.set_default_dtype(torch.float16))), {"surroundings"}),
    "not finite on ties": (Planted(then(nowhere_finite)), {"finite"}),
    "not finite backward": (Planted(then(infinite_backward)), {"finite"}),
    "the batch": (Planted(of_the_batch), {"keyed by image"}),
    "the batch backward": (Planted(gradient_of_the_batch), {"keyed by image", "gradient"}),
    "backward raises": (Planted(broken_backward), {"finite", "keyed by image", "gradient", "surroundings"}),
    "exact, but twice": (Planted(lambda p, s, k, noise: exact(p, 2 * s - s.detach(), k, noise)), {"gradient"}),
    "exact, but one part": (
        Planted(lambda p, s, k, noise: exact(p, torch.cat([s[:, :1].detach(), s[:, 1:]], 1), k, noise)), {"gradient"}
    ),
    "exact, but none": (Planted(lambda p, s, k, noise: exact(p, s.detach(), k, noise)), {"gradient"}),
    "exact, but steps": (Planted(lambda p, s, k, noise: exact(p, s.float().to(s), k, noise)), {"gradient"}),
    "none, but some": (Planted(exact, About("", "none", budget=1e-9)), {"gradient"}),
    "biased, but exact": (Planted(exact, About("", "biased", budget=1e-9)), {"gradient"}),
    "biased, but none": (Planted(lambda p, s, k, noise: exact(p, s.detach(), k, noise), About("", "biased")),
                         {"gradient"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_breaks_its_property_and_no_other(name):
    operator, wanted = FAULTS[name]
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    findings = examine(operator)
    assert {f.property for f in findings if f.status == "failed"} == wanted
    for f in findings:
        if f.status == "failed":
            assert f.case and f.told and f.remedy and f.promise, f
    assert torch.equal(state, torch.get_rng_state())  # whatever the operator did
    assert torch.get_default_dtype() == dtype
    with pytest.raises(BrokenContract) as caught:
        check_operator(operator, name="mine")
    text = str(caught.value)
    assert text.startswith(f"mine breaks {len(wanted)} of {len(PROPERTIES)} properties")
    for f in findings:
        if f.status == "failed":
            assert f.case in text and f.told in text and f.promise in text and f.remedy in text


def test_the_operator_that_faults_are_planted_in_has_none():
    assert {f.status for f in examine(Planted())} == {"passed"}
    assert {f.property for f in examine(Planted())} == set(PROPERTIES)


def test_every_property_has_a_planted_fault():
    assert set().union(*(wanted for _, wanted in FAULTS.values())) == set(PROPERTIES)


def test_an_exception_is_told_with_its_line_and_its_input():
    def picky(patches, scores, k, noise):
        if k == 1:
            raise ValueError("one is not enough")
        return exact(patches, scores, k, noise)

    call = examine(Planted(picky))[0]
    assert call.told.startswith("raised ValueError: one is not enough (test_testing.py, line ")
    assert "K = 1" in call.case

    def of_lines(patches, scores, k, noise):
        raise ValueError("first line\nsecond line")

    findings = {f.property: f.told for f in examine(Planted(of_lines)) if f.status == "failed"}
    assert findings["call"] == findings["inputs"]
    assert findings["call"].startswith("raised ValueError: first line second line (test_testing.py, line ")

    def tied(patches, scores, k, noise):
        if (scores == 0).all(1).any():
            raise ValueError("ties")
        return exact(patches, scores, k, noise)

    findings = {f.property: f for f in examine(Planted(tied))}
    assert findings["call"].status == "passed"
    assert findings["weights"].case.startswith("zeros, ")


def test_the_input_that_is_named_is_the_one_that_fails():
    findings = {f.property: f for f in examine(Planted(then(nowhere_finite)))}
    assert findings["finite"].case.startswith("zeros, float64, N = 17, K = 1")


def test_without_a_declaration_what_needs_one_is_skipped_and_says_what_to_declare():
    findings = {f.property: f for f in examine(Planted(about=None))}
    skipped = {name for name, f in findings.items() if f.status == "skipped"}
    assert skipped == {"budget", "fresh noise", "gradient"}
    assert all("gradprobe.About(" in findings[name].remedy for name in skipped)
    assert "it looks exact" in findings["gradient"].told
    check_operator(Planted(about=None))
    steps = Planted(lambda p, s, k, noise: exact(p, s.float().to(s), k, noise), None)
    assert "it looks biased" in {f.property: f for f in examine(steps)}["gradient"].told


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"gradient": "Exact"}, "About(gradient='Exact'): did you mean 'exact'? Known: biased, exact, none, unbiased"),
        ({"stochastic": "no"}, "About(stochastic='no') is not possible; give True or False"),
        ({"budget": True}, "About(budget=True) is not possible; give the tolerance, such as 1e-9"),
        ({"budget": float("nan")}, "About(budget=nan)"),
        ({"cite": "diffprune"}, "About(cite='diffprune') is not possible; give a tuple, such as ('diffprune',)"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused_where_it_is_written(declared, words):
    with pytest.raises(gp.UsageError) as caught:
        About(**{"formula": "x", "gradient": "exact"} | declared)
    assert words in str(caught.value)


@dataclass(frozen=True)
class Half:
    """Relaxation with a fault."""

    act: Callable
    about: About

    def __call__(self, scores, k, noise):
        return self.act(scores, k, noise)


def test_a_relaxation_is_examined_by_itself():
    """Behind ``zero`` any gradient is biased; only alone is a relaxation's own declaration seen to be wrong."""
    wrong = Half(lambda s, k, noise: soft_topk(2 * s - s.detach(), k), About("", "exact", budget=1e-9))
    failed = {f.property for f in examine(Operator(wrong, registry.part("throttle", "zero"))) if f.status == "failed"}
    assert failed == {"relaxation: gradient"}


def bisected(scores, k):
    """Sigmoids of shifted scores that sum to K, the shift found in the precision of the scores."""
    low, high = scores.amin(-1, keepdim=True) - 50, scores.amax(-1, keepdim=True) + 50
    if k == scores.shape[1]:
        return torch.ones_like(scores)
    for _ in range(200):
        middle = (low + high) / 2
        over = (scores - middle).sigmoid().sum(-1, keepdim=True) > k
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (scores - (low + high) / 2).sigmoid()


def test_a_budget_missed_in_float32_alone_says_how_to_meet_it():
    about = About("", "biased", budget=1e-9)

    def careless(patches, scores, k, noise):
        weights = bisected(scores, k)
        return Selection(patches * weights[..., None], weights)

    def careful(patches, scores, k, noise):
        weights = bisected(scores.double(), k).to(scores.dtype)
        return Selection(patches * weights[..., None], weights)

    finding = {f.property: f for f in examine(Planted(careless, about))}["budget"]
    assert finding.status == "failed"
    assert "float32" in finding.case
    assert "scores.double() and return weights.to(scores.dtype), or renormalise" in finding.remedy
    assert {f.property: f for f in examine(Planted(careful, about))}["budget"].status == "passed"
    short = Planted(lambda p, s, k, noise: careful(p, s, max(1, k - 1), noise), about)
    assert "float64" not in {f.property: f for f in examine(short)}["budget"].remedy


def test_only_an_operator_can_be_examined():
    with pytest.raises(gp.UsageError, match=r"Half.*give every field"):
        examine(Half)
    with pytest.raises(gp.UsageError, match="is a relaxation alone; join it with a throttle"):
        examine(Half(exact, About("", "exact")))
    with pytest.raises(gp.UsageError, match="cannot be called"):
        examine(3)
    with pytest.raises(gp.UsageError, match="did you mean 'vpnoise'"):
        examine("vpnose")


def test_progress_is_told():
    calls = []
    examine("lapsum+scale", progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == list(range(1, len(PROPERTIES) + 4))
    assert {total for *_, total in calls} == {len(PROPERTIES) + 3}

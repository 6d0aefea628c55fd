"""Contract of selectors: every built-in keeps it, and each property detects the fault planted for it."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import gradprobe as gp
from gradprobe.core import top_k
from gradprobe.operators import registry
from gradprobe.testing import SELECTOR_PROPERTIES, BrokenContract, check_selector, examine_selector
from gradprobe.testing.selector_cases import INSIDE, PLACES, TOKENS, budgets, view_case, view_catalogue
from gradprobe.view import Kept, SelectorAbout, Unavailable

QUICK = {"zoo": "zoo:draws=3"}


@pytest.mark.parametrize("name", [*(QUICK.get(name, name) for name in registry.names("selector")), "zoo:exact"])
def test_every_built_in_keeps_every_promise(name):
    check_selector(name)


def length(view):
    return view.projected.norm(dim=-1)


def longest(view, k):
    """Selector without a fault, in which faults are planted."""
    return Kept(top_k(length(view), k))


ABOUT = SelectorAbout("|x_i|")


@dataclass(frozen=True)
class Planted:
    """Selector that is `longest` but for one fault."""

    act: Callable = longest
    about: Any = ABOUT
    score: Callable = length
    cost: Callable = lambda sizes, k: sizes.n * sizes.projector

    def __call__(self, view, k):
        return self.act(view, k)

    def scores(self, view):
        return self.score(view)

    def flops(self, sizes, k):
        return self.cost(sizes, k)


def then(change):
    """`longest` with its result changed."""
    return Planted(lambda view, k: change(longest(view, k), view, k))


def first(do):
    """`longest` after something else was done to the view."""

    def act(view, k):
        do(view)
        return longest(view, k)

    return Planted(act)


def tokens_of(view):
    return view.projected if view.given is None else view.features


def gathered(view, k):
    tokens = tokens_of(view)
    return tokens.gather(1, longest(view, k).index[..., None].expand(-1, -1, tokens.shape[-1]))


def merging(change):
    """`longest` with `change` of the tokens that are kept, unless all are."""

    def act(view, k):
        tokens = gathered(view, k)
        return replace(longest(view, k), tokens=tokens if k == view.shape[1] else change(tokens))

    return Planted(act)


def by(score):
    """Keep the K largest of another score, and declare it."""
    return Planted(lambda view, k: Kept(top_k(score(view), k)), score=score)


def only(kind, message="broken"):
    """`longest` that raises for tokens that a function of the features picks out."""

    def act(view, k):
        if kind(view.projected):
            raise ValueError(message)
        return longest(view, k)

    return Planted(act)


def last_of_equals(view, k):
    order = length(view).flip(1).argsort(dim=1, descending=True, stable=True)
    return Kept((view.shape[1] - 1 - order)[:, :k].sort(1).values)


def off_thread(kept, view, k):
    here = threading.current_thread() is threading.main_thread()
    return kept if here else Kept(torch.arange(k).expand_as(kept.index))


def with_graph(view, k):
    with torch.enable_grad():
        return replace(longest(view, k), tokens=1 * gathered(view, k))


def backward(view):
    with torch.enable_grad():
        (view.features.sum() + 0 * torch.zeros(1, requires_grad=True)).backward()


def projector_backward(view):
    with torch.enable_grad():
        view.project(view.features).sum().backward()


def on_the_wrong_axis(view):
    x = view.projected
    return (x * x.mean((0, 1))).sum(-1)


def about(**changes):
    return Planted(about=replace(ABOUT, **changes))


FAULTS = {
    "raises": (only(lambda x: True), {"call"}),
    "a tensor": (Planted(lambda view, k: longest(view, k).index), {"call"}),
    "nothing": (Planted(lambda view, k: None), {"call"}),
    "a list": (then(lambda kept, *_: Kept(kept.index.tolist())), {"call"}),
    "int32": (then(lambda kept, *_: Kept(kept.index.int())), {"call"}),
    "one image": (then(lambda kept, *_: Kept(kept.index[0])), {"call"}),
    "three arguments": (Planted(lambda view, k, noise: longest(view, k)), {"call"}),
    "no bfloat16": (only(lambda x: x.dtype == torch.bfloat16), {"call"}),
    "one less": (then(lambda kept, *_: Kept(kept.index[:, :-1])), {"budget"}),
    "one more": (then(lambda kept, view, k: longest(view, min(k + 1, view.shape[1]))), {"budget"}),
    "a share": (then(lambda kept, view, k: longest(view, max(1, round(0.3 * k)) if k == 15 else k)), {"budget"}),
    "twice": (then(lambda kept, *_: Kept(kept.index.where(kept.index != kept.index[:, -1:], kept.index[:, :1]))),
              {"budget"}),
    "no such token": (then(lambda kept, view, k: Kept(kept.index + view.shape[1])), {"budget"}),
    "unsorted": (then(lambda kept, *_: Kept(kept.index.flip(1))), {"order"}),
    "all in another order": (then(lambda kept, view, k: Kept(kept.index.flip(1)) if k == view.shape[1] else kept),
                             {"order"}),
    "no fault, but merging": (merging(lambda x: x), set()),
    "width": (merging(lambda x: x[..., :-1]), {"merged"}),
    "count": (merging(lambda x: x[:, :-1]), {"merged"}),
    "dtype": (merging(lambda x: x.half()), {"merged"}),
    "nan": (merging(lambda x: x / 0 * 0), {"finite"}),
    "always changed": (Planted(lambda view, k: replace(longest(view, k), tokens=1.01 * gathered(view, k))),
                       {"identity"}),
    "constant tokens": (only(lambda x: bool((x == x[:, :1]).all()) and x.shape[1] > 1), {"finite"}),
    "nan of zeros": (by(lambda view: (view.projected / view.projected.norm(dim=-1, keepdim=True)).sum(-1)
                        if view.given is None else length(view)), {"finite"}),
    "infinite scores": (Planted(score=lambda view: length(view) / 0), {"finite"}),
    "scores of another": (Planted(score=lambda view: -length(view)), {"scores"}),
    "scores of another shape": (Planted(score=lambda view: length(view)[:, :1]), {"scores"}),
    "scores that raise": (Planted(score=lambda view: view.nothing), {"scores"}),
    "last of equals": (Planted(last_of_equals), {"ties"}),
    "by thread": (then(off_thread), {"repeatable"}),
    "the batch": (by(on_the_wrong_axis), {"keyed by image"}),
    "noise by place": (by(lambda view: gp.Noise(0, range(view.shape[0])).uniform(view.shape[1:])), {"keyed by image"}),
    "tokens in place": (first(lambda view: tokens_of(view).mul_(1)), {"inputs"}),
    "projected in place": (first(lambda view: view.projected.mul_(1)), {"inputs"}),
    "keys in place": (first(lambda view: view.make_tower and view.tower.last.keys.mul_(1)), {"inputs"}),
    "words in place": (first(lambda view: view.inside.words.states.mul_(1) if view.place else None), {"inputs"}),
    "asks for a gradient": (first(lambda view: view.projected.requires_grad_()), {"inputs"}),
    "torch's generator": (first(lambda view: torch.rand(1)), {"surroundings"}),
    "numpy's generator": (first(lambda view: np.random.rand()), {"surroundings"}),  # noqa: NPY002
    "python's generator": (first(lambda view: random.random()), {"surroundings"}),
    "threads": (first(lambda view: torch.set_num_threads(2)), {"surroundings"}),
    "default dtype": (first(lambda view: torch.set_default_dtype(torch.float16)), {"surroundings"}),
    "grad mode": (first(lambda view: torch.set_grad_enabled(True)), {"surroundings"}),
    "random by torch": (replace(by(lambda view: torch.rand(view.shape)), score=lambda view: torch.zeros(view.shape)),
                        {"surroundings", "repeatable", "keyed by image", "ties"}),
    "a graph": (Planted(with_graph), {"gradient"}),
    "gradients of inputs": (first(lambda view: backward(view) if view.given is not None else None), {"gradient"}),
    "gradients of the projector": (first(lambda view: view.projector and projector_backward(view)), {"gradient"}),
    "half a FLOP": (Planted(cost=lambda sizes, k: sizes.n / 2), {"flops"}),
    "negative FLOPs": (Planted(cost=lambda sizes, k: k - sizes.n), {"flops"}),
    "FLOPs that raise": (Planted(cost=lambda sizes, k: sizes.nothing), {"flops"}),
    "an operator's declaration": (Planted(about=gp.About("", "none")), {"declared"}),
    "inside only": (Planted(lambda view, k: view.inside and longest(view, k)), {"declared"}),
    "outside only": (Planted(lambda view, k: longest(view, k) if view.features is not None else None,
                             SelectorAbout("", layers=(2,))), {"declared"}),
    "layers": (about(layers=(8, 2)), {"declared"}),
    "a layer too many": (about(layers=(32,)), {"declared"}),
    "positions": (about(positions="renumber"), {"declared"}),
    "citation": (about(cite=("difprune",)), {"declared"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_breaks_its_property_and_no_other(name):
    selector, wanted = FAULTS[name]
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    findings = examine_selector(selector)
    assert {f.property for f in findings if f.status == "failed"} == wanted
    for f in findings:
        if f.status == "failed":
            assert f.case and f.told and f.remedy and f.promise, f
    assert torch.equal(state, torch.get_rng_state())  # whatever the selector did
    assert torch.get_default_dtype() == dtype


@pytest.mark.parametrize("name", ["unsorted", "random by torch"])
def test_a_broken_selector_is_refused_with_all_that_was_found(name):
    selector, wanted = FAULTS[name]
    with pytest.raises(BrokenContract) as caught:
        check_selector(selector, name="mine")
    text = str(caught.value)
    assert text.startswith(f"mine breaks {len(wanted)} of {len(SELECTOR_PROPERTIES)} properties")
    for f in examine_selector(selector):
        if f.status == "failed":
            assert f.case in text and f.told in text and f.promise in text and f.remedy in text


def test_the_selector_that_faults_are_planted_in_has_none():
    findings = examine_selector(Planted())
    assert {f.property: f.status for f in findings} == dict.fromkeys(SELECTOR_PROPERTIES, "passed")


def test_every_property_but_equivariance_has_a_planted_fault():
    assert set().union(*(wanted for _, wanted in FAULTS.values())) == set(SELECTOR_PROPERTIES) - {"equivariance"}


def told(selector):
    return {f.property: f for f in examine_selector(selector)}


def test_an_exception_is_told_with_its_line_and_its_input():
    finding = told(only(lambda x: x.shape[1] == 2, "two are not enough"))["call"]
    assert finding.told.startswith("raised ValueError: two are not enough (test_testing_selectors.py, line ")
    assert finding.case == "random tokens before a language model, float64, N = 2, K = 1"


def test_a_fault_of_some_numbers_of_tokens_leaves_the_rest_examined():
    findings = told(FAULTS["a share"][0])
    assert findings["budget"].case.endswith("N = 16, K = 15")
    assert findings["scores"].status == findings["keyed by image"].status == "passed"


def test_views_that_are_refused_are_left_out_and_told():
    def no_words(view, k):
        return longest(view, k) if view.words else None

    findings = told(Planted(no_words))
    assert {f.status for f in findings.values()} == {"passed"}
    assert findings["call"].told == (
        "tokens before a language model, of two pictures, without a class token; not in a ViT, by themselves, at layer "
        "2 of a language model: there is no text here"
    )

    def not_one(view, k):
        if k == 1 and view.shape[1] == TOKENS:
            raise Unavailable("one is not\nenough")
        return longest(view, k)

    findings = told(Planted(not_one))
    assert {f.status for f in findings.values()} == {"passed"}
    assert "not before a language model with N = 16, K = 1, of two pictures with N = 16" in findings["call"].told
    assert findings["call"].told.endswith(": one is not enough")


def test_where_every_view_is_refused_nothing_is_examined_and_the_reason_told():
    def refuse(view, k):
        raise Unavailable("no camera here")

    findings = told(Planted(refuse, cost=lambda sizes, k: 0))
    assert findings.pop("flops").status == "passed"
    assert {(f.status, f.told) for f in findings.values()} == {("skipped", "no camera here")}


def test_what_is_not_declared_is_skipped_and_says_what_to_declare():
    findings = told(longest)
    assert {name for name, f in findings.items() if f.status == "skipped"} == {"scores", "ties", "flops", "declared"}
    assert "SelectorAbout(" in findings["declared"].remedy
    assert "flops(sizes, k) -> int" in findings["flops"].remedy
    check_selector(longest)


def test_renumbered_tokens_are_told_as_seen():
    assert told(Planted())["equivariance"].status == "passed"
    by_place = told(Planted(lambda view, k: Kept(torch.arange(k).expand(view.shape[0], -1))))["equivariance"]
    assert (by_place.status, "the place of a token matters" in by_place.told) == ("skipped", True)
    assert told("random")["equivariance"].told == "its choice is random"


def test_flops_are_told_beside_those_that_torch_counts():
    counted = 2 * 12 * (8 + 12) * TOKENS
    assert f"K = 5: {counted}, counted: {counted}" in told(Planted())["flops"].told
    assert "1 projector passes" in told(Planted())["flops"].told
    assert f"K = 5: 7, counted: {counted}" in told(Planted(cost=lambda sizes, k: 7))["flops"].told


def test_a_selector_is_a_name_a_class_an_object_or_a_function():
    everything = {name: f.status for name, f in told(Planted()).items()}
    assert {name: f.status for name, f in told(Planted).items()} == everything
    assert told("norm")["scores"].status == "passed"
    with pytest.raises(gp.UsageError, match="did you mean 'norm'"):
        examine_selector("nrm")
    with pytest.raises(gp.UsageError, match=r"cannot be called; a selector is called with \(view, k\)"):
        check_selector(3)
    with pytest.raises(gp.UsageError, match="is an operator; a selector is called"):
        check_selector(gp.build("vpnoise"))


def test_progress_is_told():
    calls = []
    examine_selector("norm", progress=lambda *call: calls.append(call))
    total = len(view_catalogue()) + len(SELECTOR_PROPERTIES)
    assert calls == [("norm", done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_an_image_is_seen_alone_as_within_its_batch(place):
    case = view_case(place, 5)
    together, alone = case.view(), case.subset([2]).view()
    assert torch.allclose(together.projected[2:], alone.projected)
    assert torch.equal(together.uniform()[2:], alone.uniform())
    if together.make_tower:
        assert sum(rows * columns for rows, columns in together.grids) == case.n
        for layer in ("last", "first"):
            one, other = (getattr(view.tower, layer) for view in (together, alone))
            assert torch.allclose(one.attention("mean")[2:], other.attention("mean"))
            assert torch.equal(one.patch_keys[2:], other.patch_keys)
    if together.place:
        for rows in ("last", case.tensors["behind"]):
            other = rows if isinstance(rows, str) else rows[2:]
            assert torch.allclose(together.inside.attention(rows)[2:], alone.inside.attention(other))


@pytest.mark.parametrize("place", [PLACES[0], PLACES[1], INSIDE], ids=lambda place: place.name)
def test_renumbered_tokens_are_the_same_tokens(place):
    case, order = view_case(place, 5), torch.tensor([3, *range(3), *range(4, TOKENS)])
    here, there = case.view(), case.renumbered(order).view()
    assert torch.allclose(here.projected[:, order], there.projected)
    if place.inside:
        assert torch.allclose(here.inside.attention()[:, order], there.inside.attention())
        assert torch.equal(here.inside.keys[:, order], there.inside.keys)
    else:
        assert torch.allclose(here.tower.last.attention("mean")[:, order], there.tower.last.attention("mean"))
        assert torch.equal(here.tower.first.patch_keys[:, order], there.tower.first.patch_keys)


def test_the_catalogue_has_every_budget_and_kind():
    cases = view_catalogue()
    assert {(c.n, c.k) for c in cases} == {(n, k) for n in (1, 2, TOKENS) for k in budgets(n)}
    assert budgets(1) == [1] and budgets(2) == [1, 2] and budgets(TOKENS) == [1, 2, 5, 15, 16]
    for case in cases:
        x = case.original
        assert (case.kind == "zero") == (not bool(x.any()))
        assert bool((x == x[:, :1]).all()) == (case.kind in ("zero", "constant") or case.n == 1)
        if case.kind == "paired":
            assert torch.equal(x[:, : TOKENS // 2], x[:, TOKENS // 2 :])

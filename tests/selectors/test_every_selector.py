"""Properties of every selector outside the language model, on a catalogue of images."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from views import images, tiled

from gradprobe.operators import registry

POSITION_FREE = (  # a token is kept or not wherever it stands
    "norm", "projected-norm", "class-attention", "mean-attention", "divprune", "zoo:draws=8", "zoo:exact", "prunesid",
    "prunesid:query=mean", "cdpruner",
)  # fmt: skip
PLACED = (  # keyed noise, evenly spaced places, stretches of the raster, tiles
    "random", "downsample", "visionzip", "visionzip:query=mean,context=0.5", "visionzip:context=0", "holov",
    "holov:crops=5,variety=1", "holov:query=mean", "hired", "hired:alpha=0", "hired:alpha=1",
)  # fmt: skip
EVERY = POSITION_FREE + PLACED
CATALOGUE = {
    "random": images(),
    "float64": images(dtype=torch.float64, seed=1),
    "constant": images("constant"),
    "zeros": images("zeros"),
    "twice": images("twice"),
    "few features": images(n=40, b=2),  # N > D: components from the smaller matrix, K above the rank
    "tiles": tiled(),
    "two tokens": images(n=2),
    "one token": images(n=1),
}


def chosen(spec, made, k, **changes):
    with torch.no_grad():
        return registry.part("selector", spec)(made.view(**changes), k)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("spec", EVERY)
def test_exactly_k_different_tokens_in_order_and_finite(spec, name):
    made = CATALOGUE[name]
    b, n, width = made.tokens.shape
    for k in sorted({1, min(2, n), min(7, n), max(1, n // 2), max(1, n - 1), n}):
        kept = chosen(spec, made, k)
        assert kept.index.shape == (b, k) and kept.index.dtype == torch.int64
        assert (kept.index.diff(dim=1) > 0).all() and (kept.index >= 0).all() and (kept.index < n).all()
        if kept.tokens is not None:
            assert kept.tokens.shape == (b, k, width) and kept.tokens.dtype == made.tokens.dtype
            assert kept.tokens.isfinite().all()
    assert kept.tokens is None  # K = N: all, in order, as they are


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("query", ["class", "mean"])
def test_attention_of_half_precision_is_not_rounded_to_a_few_values(query, dtype):
    made = images(n=200)  # its numbers are exact in half precision
    coarse = replace(made, tower=tuple(x.to(dtype) for x in made.tower)).view().tower.last
    assert torch.equal(coarse.attention(query), made.view().tower.last.attention(query))


@pytest.mark.parametrize("name", ["random", "constant", "tiles"])
@pytest.mark.parametrize("spec", EVERY)
def test_an_image_is_the_same_alone_as_in_a_batch(spec, name):
    made = CATALOGUE[name]
    for k in (2, 9):
        together = chosen(spec, made, k)
        for i in range(len(made.tokens)):
            alone = chosen(spec, made.taken(i), k)
            assert torch.equal(alone.index[0], together.index[i])
            if alone.tokens is not None:
                torch.testing.assert_close(alone.tokens[0], together.tokens[i])


@pytest.mark.parametrize("spec", POSITION_FREE)
def test_the_order_of_tokens_does_not_matter(spec):
    made = CATALOGUE["random"]
    turn = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    for k in (1, 6, 13, 23):
        other = chosen(spec, made.turned(turn), k).index
        assert torch.equal(turn[other].sort(1).values, chosen(spec, made, k).index)


@pytest.mark.parametrize("spec", [*POSITION_FREE, "hired"])
def test_of_equal_tokens_the_first_is_kept_first(spec):
    for k in (1, 5, 12, 17):
        for row in chosen(spec, CATALOGUE["twice"], k).index.tolist():
            assert all(i - 12 in row for i in row if i >= 12)
        assert (chosen(spec, CATALOGUE["constant"], k).index == torch.arange(k)).all()


@pytest.mark.parametrize("spec", EVERY)
def test_inputs_stay_as_they_are_and_nothing_has_a_gradient(spec):
    made = CATALOGUE["tiles"].taken(0, 1)
    tensors = [made.tokens, *made.tower, made.words]
    before = [(x.clone(), x._version) for x in tensors]
    leaves = [x.requires_grad_() for x in tensors]
    kept = chosen(spec, made, 6)
    assert not kept.index.requires_grad and (kept.tokens is None or not kept.tokens.requires_grad)
    assert all(x.grad is None and x._version == version for x, (_, version) in zip(leaves, before, strict=True))
    assert all(torch.equal(x, old) for x, (old, _) in zip(leaves, before, strict=True))


@pytest.mark.parametrize("spec", [x for x in EVERY if hasattr(registry.part("selector", x), "scores")])
def test_the_k_highest_scores_are_kept(spec):
    made, selector = CATALOGUE["random"], registry.part("selector", spec)
    with torch.no_grad():
        order = selector.scores(made.view()).argsort(dim=1, descending=True, stable=True)
    for k in (1, 7, 24):
        assert torch.equal(chosen(spec, made, k).index, order[:, :k].sort(1).values)


@pytest.mark.parametrize("name", ["random", "few features", "tiles"])
@pytest.mark.parametrize("spec", EVERY)
def test_flops_are_those_that_torch_counts(spec, name):
    made, selector = CATALOGUE[name].taken(0), registry.part("selector", spec)
    n = made.tokens.shape[1]
    chosen(spec, made, 1)  # what is computed once a model
    for k in (1, 7, n - 1):
        counter, view = FlopCounterMode(display=False), made.view()
        with torch.no_grad(), counter:
            selector(view, k)
        assert selector.flops(made.sizes, k) == counter.get_total_flops()


@pytest.mark.parametrize("spec", EVERY)
def test_a_selector_declares_itself(spec):
    selector = registry.part("selector", spec)
    assert selector.about.formula and selector.about.layers == ()
    assert registry.label(registry.part("selector", registry.label(selector))) == registry.label(selector)
    assert hash(selector) == hash(registry.part("selector", spec))

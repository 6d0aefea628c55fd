"""Every relaxation with every throttle, and the special properties of single operators.

What every operator promises is in `gradprobe.testing`, and tests/testing/test_testing.py holds each of them to it.
"""

import itertools

import pytest
import torch

from gradprobe.core import Noise, Selection, Stream, apply, top_k, top_k_mask
from gradprobe.errors import UsageError
from gradprobe.operators import registry
from gradprobe.testing.cases import TOKENS, budgets, catalogue, score_cases
from gradprobe.testing.readouts import curved

CASES = score_cases()


def patches_for(scores, dim=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*scores.shape, dim, generator=generator, dtype=torch.float64).to(scores.dtype)


def noise_for(scores, seed=0):
    return Noise(seed, range(len(scores)))


def run(spec, scores, k, seed=0):
    return apply(registry.build(spec), patches_for(scores), scores, k, noise_for(scores, seed), spec)


@pytest.mark.parametrize("throttle", registry.THROTTLES)
@pytest.mark.parametrize("relaxation", registry.RELAXATIONS)
def test_any_relaxation_goes_with_any_throttle(relaxation, throttle):
    """Finite forward and backward on every kind of scores, and the identity at K = N."""
    operator = registry.build(f"{relaxation}+{throttle}")
    case = catalogue(torch.float32, 5).leaf()
    selection = apply(operator, case.patches, case.scores, 5, case.noise, "op")
    assert torch.isfinite(selection.tokens).all()
    total = curved(selection).sum()
    if total.requires_grad:
        (grad,) = torch.autograd.grad(total, case.scores, allow_unused=True, materialize_grads=True)
        assert torch.isfinite(grad).all()
    everything = apply(operator, case.patches, case.scores, TOKENS, case.noise, "op")
    assert torch.equal(everything.tokens + 0.0, case.patches + 0.0)
    biases = [bias for bias in (everything.key_bias, everything.self_bias) if bias is not None]
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("spec", ["gumbel-ste", "plackett-luce"])
def test_gumbel_top_k_keeps_each_token_as_often_as_the_sum_over_ordered_subsets_says(spec):
    scores, k, rows = torch.tensor([1.5, -1.0, 0.3, 0.0, 2.0], dtype=torch.float64), 3, 20_000
    expected = torch.zeros(5, dtype=torch.float64)
    for order in itertools.permutations(range(5), k):
        left, p = scores.exp(), 1.0
        for i in order:
            p, left = p * left[i] / left.sum(), left.index_fill(0, torch.tensor(i), 0.0)
        expected[list(order)] += p
    assert torch.isclose(expected.sum(), torch.tensor(float(k), dtype=torch.float64))
    kept = registry.part("relaxation", spec)(scores.expand(rows, 5), k, Noise(0, range(rows))).mean(0)
    error = (expected * (1 - expected) / rows).sqrt()
    assert ((kept - expected).abs() <= 4.5 * error).all()


def test_the_limit_of_softtopk_is_hard_gather():
    for case, scores in CASES.items():
        k = budgets(scores.shape[1])[1]
        values = scores.sort(dim=1, descending=True).values
        if k < scores.shape[1] and (values[:, k - 1] - values[:, k] < 1e-4).any():
            continue  # a tie at the boundary is shared, not broken
        soft = run("softtopk:tau=1e-8", scores, k)
        assert soft.key_bias is not None
        kept = soft.key_bias == 0
        assert torch.equal(kept, top_k_mask(scores, k).bool()), case
        assert torch.isneginf(soft.key_bias[~kept]).all(), case


def test_gather_keeps_the_originals_in_their_order():
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    selection = run("hard", scores, 2)
    assert selection.index is not None
    assert selection.index.tolist() == [[1, 3]]
    assert torch.equal(selection.tokens, patches_for(scores)[:, [1, 3]])


def test_variance_is_preserved_by_rms_noise():
    sizes = torch.tensor([0.1, 1, 5, 20])[:, None, None]
    patches = torch.randn(4, 50, 400, generator=torch.Generator().manual_seed(7)) * sizes
    weights = torch.rand(4, 50, generator=torch.Generator().manual_seed(8))
    throttle = registry.part("throttle", "vpnoise")
    out = throttle(patches, weights, 10, Noise(0, range(4))).tokens
    ratio = out.square().mean((1, 2)) / patches.square().mean((1, 2))
    assert (ratio - 1).abs().max() < 0.02


@pytest.mark.parametrize("throttle", ["vpnoise", "scale-vpnoise"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 3e3])
def test_the_scale_of_noise_neither_overflows_nor_vanishes_in_half_precision(throttle, size):
    patches = (size * patches_for(torch.zeros(2, 9), dim=64)).half()
    weights = torch.linspace(0, 1, 9).repeat(2, 1).half()
    act = registry.part("throttle", throttle)
    out, exact = (
        act(patches.to(t), weights.to(t), 3, noise_for(weights)).tokens for t in (torch.float16, torch.float32)
    )
    assert (out - exact).norm() < 4e-3 * exact.norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": torch.zeros(3, 9, 1)}, r"scores of shape \(3, 9, 1\).*one a token, \(3, 9\)"),
        ({"scores": torch.zeros(1, 9)}, r"scores of shape \(1, 9\)"),
        ({"k": 0}, "k=0 is no number.*give 1 to 9"),
        ({"k": -1}, "k=-1 is no number.*give 1 to 9"),
        ({"k": 10}, "k=10 is no number.*give 1 to 9"),
        ({"noise": Noise(0, (0,))}, "noise for 1 images and patches of 3; give one id an image"),
    ],
)
@pytest.mark.parametrize("spec", ["hard", "gumbel", "vpnoise"])
def test_what_does_not_fit_together_is_refused_and_not_broadcast(spec, change, words):
    given = {"patches": torch.zeros(3, 9, 4), "scores": torch.zeros(3, 9), "k": 2, "noise": Noise(0, range(3))}
    with pytest.raises(UsageError, match=words):
        registry.build(spec)(**(given | change))


def test_random_keeps_every_token_equally_often():
    kept = registry.part("relaxation", "random")(torch.zeros(8000, 10), 3, Noise(0, range(8000))).mean(0)
    assert (kept - 0.3).abs().max() < 0.03


def test_a_straight_through_weight_is_exactly_zero_or_one():
    scores = torch.randn(5, 40) * 100
    for spec in ("gumbel-ste", "gumbel-ste:backward=soft"):
        weights = registry.part("relaxation", spec)(scores, 9, noise_for(scores))
        assert set(weights.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(weights.bool(), top_k_mask(weights, 9).bool())


def test_an_operator_is_its_two_parts():
    scores = torch.randn(2, 9)
    noise, patches = noise_for(scores), patches_for(scores)
    whole = registry.build("gumbel-ste+vpnoise")(patches, scores, 3, noise)
    weights = registry.part("relaxation", "gumbel-ste")(scores, 3, noise.stream(Stream.RELAXATION))
    by_hand: Selection = registry.part("throttle", "vpnoise")(patches, weights, 3, noise.stream(Stream.THROTTLE))
    assert torch.equal(whole.tokens, by_hand.tokens)
    assert torch.equal(top_k(whole.weights, 3), top_k(weights, 3))

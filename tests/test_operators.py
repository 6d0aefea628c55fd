"""Every relaxation, throttle and pair of them against the properties that all must have: one table, one row each.

A new operator's test is its row: which gradient it declares, whether it draws noise, whether it keeps an exact budget.
"""

from dataclasses import dataclass

import pytest
import torch
from catalogue import score_cases

from gradprobe import registry
from gradprobe.core import Noise, Selection, apply, top_k, top_k_mask


@dataclass(frozen=True)
class Row:
    """What a part declares: its gradient (exact, biased, none), whether it is stochastic."""

    gradient: str
    stochastic: bool


RELAXATIONS = {
    "hard": Row("none", False),
    "random": Row("none", True),
    "lapsum": Row("exact", False),
    "lapsum:tau=0.03": Row("exact", False),
    "logistic": Row("exact", False),
    "logistic:tau=0.1": Row("exact", False),
    "gumbel-ste": Row("biased", True),
    "gumbel-ste:backward=soft": Row("biased", True),
    "gumbel-ste:scale=0": Row("biased", False),
}
THROTTLES = {
    "gather": Row("exact", False),
    "zero": Row("biased", False),
    "scale": Row("exact", False),
    "vpnoise": Row("exact", True),
    "vpnoise:sigma=unit": Row("exact", True),
    "vpnoise:sigma=0": Row("exact", False),
    "scale-vpnoise": Row("exact", True),
    "attention": Row("exact", False),
    "mean": Row("exact", False),
}
CASES = score_cases()
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
PAIRS = [(r, t) for r in RELAXATIONS for t in THROTTLES]


def patches_for(scores, dim=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*scores.shape, dim, generator=generator, dtype=torch.float64).to(scores.dtype)


def budgets(n):
    return sorted({1, max(1, n // 3), max(1, n - 1), n})


def noise_for(scores, seed=0):
    return Noise(seed, range(len(scores)))


def run(spec, scores, k, seed=0):
    return apply(registry.build(spec), patches_for(scores), scores, k, noise_for(scores, seed), spec)


def test_the_table_has_a_row_for_every_built_in():
    assert {name.partition(":")[0] for name in RELAXATIONS} == set(registry.RELAXATIONS)
    assert {name.partition(":")[0] for name in THROTTLES} == set(registry.THROTTLES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RELAXATIONS)
def test_weights_lie_in_zero_to_one_and_keep_the_budget(name, dtype):
    for case, wide in CASES.items():
        scores = wide.to(dtype)
        for k in budgets(scores.shape[1]):
            weights = registry.part("relaxation", name)(scores, k, noise_for(scores))
            assert weights.shape == scores.shape, case
            assert weights.dtype == dtype, case
            assert weights.min() >= 0, case
            assert weights.max() <= 1, case
            rounding = torch.finfo(dtype).eps * scores.shape[1]
            assert (weights.double().sum(1) - k).abs().max() <= max(rounding, 1e-9 * scores.shape[1]), case


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("relaxation", "throttle"), PAIRS)
def test_forward_and_gradient_are_finite_on_every_case(relaxation, throttle, dtype):
    for case, wide in CASES.items():
        scores = wide.to(dtype).requires_grad_()
        selection = run(f"{relaxation}+{throttle}", scores, budgets(scores.shape[1])[1])
        assert selection.tokens.dtype == dtype
        assert torch.isfinite(selection.tokens).all(), case
        total = selection.tokens.double().square().sum()
        if selection.key_bias is not None:
            total = total + selection.key_bias.exp().double().square().sum()
        if total.requires_grad:
            (grad,) = torch.autograd.grad(total, scores)
            assert torch.isfinite(grad).all(), case


@pytest.mark.parametrize(("relaxation", "throttle"), PAIRS)
def test_keeping_all_tokens_is_the_identity_bit_for_bit(relaxation, throttle):
    for case, wide in CASES.items():
        scores = wide.float()
        selection = run(f"{relaxation}+{throttle}", scores, scores.shape[1])
        if throttle != "mean":  # 1 * x + 0 * mean: equal, but for the sign of zero
            assert torch.equal(selection.tokens, patches_for(scores)), case
        assert torch.equal(selection.tokens + 0.0, patches_for(scores) + 0.0), case
        if selection.key_bias is not None:
            assert (selection.key_bias == 0).all(), case


@pytest.mark.parametrize(("relaxation", "throttle"), PAIRS)
def test_same_noise_same_output_and_other_noise_other_output_if_stochastic(relaxation, throttle):
    scores = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    spec = f"{relaxation}+{throttle}"
    first, second, other = (run(spec, scores, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.weights, second.weights)
    stochastic = RELAXATIONS[relaxation].stochastic or (
        THROTTLES[throttle].stochastic and not set(first.weights.unique().tolist()) <= {0.0, 1.0}
    )
    if throttle.startswith(("vpnoise", "scale-vpnoise")) and THROTTLES[throttle].stochastic:
        stochastic = True  # a dropped token is pure noise
    same = torch.equal(first.tokens, other.tokens) and torch.equal(first.weights, other.weights)
    assert same != stochastic


@pytest.mark.parametrize(("relaxation", "throttle"), PAIRS)
def test_inputs_and_generators_are_left_as_found(relaxation, throttle):
    scores = torch.randn(2, 9, generator=torch.Generator().manual_seed(2)).requires_grad_()
    patches = patches_for(scores).detach()
    before, state = (scores.clone(), patches.clone()), torch.get_rng_state()
    selection = apply(registry.build(f"{relaxation}+{throttle}"), patches, scores, 3, noise_for(scores), "op")
    if selection.tokens.requires_grad:
        selection.tokens.sum().backward()
    assert torch.equal(scores, before[0])
    assert torch.equal(patches, before[1])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("relaxation", "throttle"), PAIRS)
def test_the_gradient_is_what_is_declared(relaxation, throttle):
    """Exact: equal to central differences. None: no graph. Biased: there is one, and it is not the derivative."""
    kinds = {RELAXATIONS[relaxation].gradient, THROTTLES[throttle].gradient}
    scores = torch.randn(2, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64).mul_(0.3)
    spec = f"{relaxation}+{throttle}"
    probe = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss(s):
        selection = run(spec, s, 3)
        index = torch.arange(7).expand(2, 7) if selection.index is None else selection.index
        picked = probe.gather(1, index[..., None].expand(-1, -1, 6))
        bias = 1 if selection.key_bias is None else selection.key_bias.exp()[..., None]
        return (picked * selection.tokens * bias).sum((1, 2))

    leaf = scores.clone().requires_grad_()
    total = loss(leaf).sum()
    if "none" in kinds:
        assert not total.requires_grad
        return
    (grad,) = torch.autograd.grad(total, leaf)
    step = 1e-6
    moves = step * torch.eye(7, dtype=torch.float64)
    differences = torch.stack([(loss(scores + move) - loss(scores - move)) / (2 * step) for move in moves], 1)
    if kinds == {"exact"}:
        assert torch.allclose(grad, differences, rtol=1e-5, atol=1e-7)
    else:
        assert grad.abs().max() > 1e-3
        assert not torch.allclose(grad, differences, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("throttle", THROTTLES)
@pytest.mark.parametrize("relaxation", [r for r, row in RELAXATIONS.items() if not row.stochastic])
def test_renumbering_the_tokens_renumbers_the_weights(relaxation, throttle):
    scores = torch.randn(3, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(6))
    spec = f"{relaxation}+{throttle}"
    here, there = run(spec, scores, 4), run(spec, scores[:, order], 4)
    assert torch.allclose(here.weights[:, order], there.weights, atol=1e-12)


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


def test_gumbel_top_k_keeps_tokens_as_often_as_plackett_luce_says():
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    relaxation = registry.part("relaxation", "gumbel-ste")
    kept = relaxation(scores.expand(20_000, 3), 1, Noise(0, range(20_000))).mean(0)
    assert torch.allclose(kept, scores.softmax(-1)[0], atol=0.015)


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
    weights = registry.part("relaxation", "gumbel-ste")(scores, 3, noise.stream(0))
    by_hand: Selection = registry.part("throttle", "vpnoise")(patches, weights, 3, noise.stream(1))
    assert torch.equal(whole.tokens, by_hand.tokens)
    assert torch.equal(top_k(whole.weights, 3), top_k(weights, 3))

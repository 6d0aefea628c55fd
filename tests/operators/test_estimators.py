"""Hard weights with a backward of their own against the published estimators, written out again in float64."""

import itertools
import math

import pytest
import torch
from scipy.stats import gumbel_r, kstest
from torch import Tensor
from twins import DRAWS, SIGMAS, assert_mean, assert_same, budgeted, hard, many, noise_for, ours, rows, subsets, twin

from gradprobe.operators import registry
from gradprobe.operators.relaxations import imle

# --- hard weights with another backward ---


def sum_of_gammas(scores, k):
    """Niepert et al., Section 3.2.2, with tau = 1 and 10 terms; the numbers are ours."""
    gammas = noise_for(scores).gamma(1 / k, (10, scores.shape[1]), like=scores)
    return sum(gammas[:, i - 1] * k / i for i in range(1, 11)) / k - math.log(10) / k


@pytest.mark.parametrize("lam", [0.5, 10.0])
@pytest.mark.parametrize("k", [1, 3])
def test_imle_is_the_difference_of_two_selections(lam, k):
    scores, v = rows(6), rows(6, seed=1)
    t = scores + sum_of_gammas(scores, k)
    expected = hard(t, k), (hard(t, k) - hard(t - lam * v, k)) / lam
    assert_same(ours(f"imle:lam={lam}", scores, k, v), expected)
    assert (expected[1] != 0).any()


def test_imle_with_a_normed_step_is_that_of_the_step_as_long_as_the_scores_are_wide():
    scores, v = rows(6), 1e-6 * rows(6, seed=1)
    t = scores + sum_of_gammas(scores, 2)
    lam = (t - t.mean(-1, keepdim=True)).square().sum(-1, keepdim=True).sqrt() / v.square().sum(-1, keepdim=True).sqrt()
    expected = (hard(t, 2) - hard(t - lam * v, 2)) / lam
    _, grad = ours("imle:lam=norm", scores, 2, v)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=0)
    assert (grad != 0).any(-1).sum() > 3
    assert (ours("imle", scores, 2, v)[1] == 0).all()  # so small a gradient swaps no token
    assert (ours("imle:lam=norm", scores, 2, 0 * v)[1] == 0).all()


@pytest.mark.parametrize("k", [2, 5])
def test_the_noise_of_imle_has_its_moments_and_sums_to_nearly_a_gumbel_number(k, monkeypatch):
    calls = []
    monkeypatch.setattr(imle, "top_k_mask", lambda t, k: calls.append(t) or torch.zeros_like(t))
    ours("imle", torch.zeros(DRAWS, 2 * k, dtype=torch.float64), k)
    eps = calls[0].detach()
    terms = range(1, 11)
    mean, variance = (sum(1 / i for i in terms) - math.log(10)) / k, sum(1 / i**2 for i in terms) / k
    assert_mean(eps.flatten()[:, None], mean)
    assert_mean((eps.flatten()[:, None] - mean).square(), variance)
    assert kstest(eps[:, :k].sum(1).numpy(), gumbel_r.cdf).statistic < 0.05


@pytest.mark.parametrize(
    "spec", ["imle", "imle:lam=1", "imle:lam=norm", "gumbel-ste", "perturbed:samples=10", "simple"]
)
def test_a_step_against_the_gradient_lowers_a_linear_loss(spec):
    scores, costs = many(2_000), torch.tensor([2.0, -1.0, 0.5, -0.2, 0.3]).double()
    before, grad = ours(spec, scores, 2, costs)
    mean = grad.mean(0)
    after, _ = ours(spec, scores - 0.3 * mean / mean.norm(), 2)
    fall = (before - after) @ costs
    assert fall.mean() > SIGMAS * fall.std() / len(fall) ** 0.5


def coins(scores, k, tau):
    """Probabilities and logits of the coins that keep K on average; both have a graph."""
    p = budgeted(scores, k, tau, torch.sigmoid)
    return p, p.logit()


def reinmax(s: Tensor, drawn: Tensor, k: int, tau_q: float) -> Tensor:
    """Liu et al., Algorithm 2, on the two categories keep and drop of every token."""
    theta = coins(s, k, 1.0)[1]
    theta = torch.stack([theta, torch.zeros_like(theta)], -1)
    one_hot = torch.stack([drawn, 1 - drawn], -1)
    flat = coins(s.detach(), k, tau_q)[0]
    pi_0 = theta.softmax(-1)
    pi_1 = (one_hot + torch.stack([flat, 1 - flat], -1)) / 2
    pi_1 = ((pi_1.log() - theta).detach() + theta).softmax(-1)
    pi_2 = 2 * pi_1 - pi_0 / 2
    return (pi_2 - pi_2.detach() + one_hot)[..., 0]


@pytest.mark.parametrize("tau_q", [1.0, 2.5])
def test_reinmax_is_the_published_one_on_two_categories(tau_q):
    scores, v, k = rows(6), rows(6, seed=1), 3
    mine = ours(f"reinmax:tau_q={tau_q}", scores, k, v)
    assert set(mine[0].unique().tolist()) == {0.0, 1.0}
    assert_same(mine, twin(lambda s: reinmax(s, mine[0], k, tau_q), scores, v), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("spec", ["reinmax", "decoupled-ste:tau_f=1"])
def test_the_mean_gradient_of_a_linear_loss_is_exact(spec):
    scores, costs = many(DRAWS), torch.tensor([2.0, -1.0, 0.5, -0.2, 0.3]).double()
    _, expected = twin(lambda s: budgeted(s, 2, 1.0, torch.sigmoid), scores[:1], costs)
    drawn, grad = ours(spec, scores, 2, costs)
    assert_mean(drawn, coins(scores[:1], 2, 1.0)[0][0])
    assert_mean(grad, expected[0])


def test_reinmax_is_right_for_squares_too_and_a_straight_through_estimator_is_not():
    """Second order: the mean gradient of ``sum_i c_i D_i^2``, of which D_i knows the slope only where it fell."""
    scores, costs = many(DRAWS), torch.tensor([2.0, -1.0, 0.5, -0.2, 0.3]).double()
    _, expected = twin(lambda s: budgeted(s, 2, 1.0, torch.sigmoid), scores[:1], costs)
    off = {}
    for spec in ("reinmax", "decoupled-ste:tau_f=1"):
        leaf = scores.clone().requires_grad_()
        drawn = registry.part("relaxation", spec)(leaf, 2, noise_for(scores))
        (grad,) = torch.autograd.grad((costs * drawn.square()).sum(), leaf)
        off[spec] = ((grad.mean(0) - expected[0]) / grad.std(0) * len(grad) ** 0.5).abs()
    assert off["reinmax"].max() < SIGMAS
    assert off["decoupled-ste:tau_f=1"].max() > 2 * SIGMAS


def test_decoupled_ste_draws_at_one_temperature_and_differentiates_at_another():
    scores, v = many(DRAWS), rows(1, 5, seed=1)
    drawn, grad = ours("decoupled-ste:tau_f=0.4,tau_b=2", scores, 2, v)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert_mean(drawn, coins(scores[:1], 2, 0.4)[0][0])
    _, expected = twin(lambda s: budgeted(s, 2, 2.0, torch.sigmoid), scores[:1], v)
    torch.testing.assert_close(grad, expected.expand_as(grad), rtol=1e-8, atol=1e-10)


def test_shiva_counts_soft_ranks_and_turns_the_sign_of_dropped_tokens():
    scores, v, k = rows(5, 6), rows(5, 6, seed=1), 2
    sigma, tau_r, tau_s = 0.5, 0.7, 1.3
    z = noise_for(scores).normal((6,), like=scores)
    kept = hard(scores + sigma * z, k)

    def paper(s):
        """Eq. 5 to 7, one token at a time."""
        t, signed = s + sigma * z, []
        for b, i in itertools.product(range(5), range(6)):
            rank = 1 + sum(torch.sigmoid((t[b, j] - t[b, i]) / tau_r) for j in range(6) if j != i)
            signed.append(torch.sigmoid((k - rank) / tau_s) * (1 if kept[b, i] else -1))
        return torch.stack(signed).reshape(5, 6)

    weights, grad = ours(f"shiva:sigma={sigma},tau_r={tau_r},tau_s={tau_s}", scores, k, v)
    assert torch.equal(weights, kept)
    torch.testing.assert_close(grad, twin(paper, scores, v)[1], rtol=1e-9, atol=1e-12)


# --- subsets ---


def ordered(scores: Tensor, order) -> Tensor:
    """Log-probability of drawing tokens in this order without replacement."""
    total, left = 0.0, list(range(len(scores)))
    for i in order:
        total = total + scores[i] - torch.logsumexp(scores[left], 0)
        left.remove(i)
    return total


def test_the_log_probability_of_plackett_luce_is_that_of_the_tokens_it_keeps_in_their_order():
    relaxation, k = registry.part("relaxation", "plackett-luce"), 3
    scores = rows(6)
    noise = noise_for(scores)
    perturbed = scores + noise.gumbel((7,), like=scores)
    orders = [sorted(range(7), key=lambda i: -row[i])[:k] for row in perturbed.tolist()]
    mask = relaxation(scores, k, noise)
    assert [sorted(order) for order in orders] == [row.nonzero().flatten().tolist() for row in mask]
    v = torch.arange(1.0, 7.0, dtype=torch.float64)
    mine = twin(lambda s: relaxation.log_prob(s, k, noise), scores, v)
    by_hand = twin(lambda s: torch.stack([ordered(*each) for each in zip(s, orders, strict=True)]), scores, v)
    assert_same(mine, by_hand)


def test_plackett_luce_and_simple_keep_each_subset_as_often_as_their_families_say():
    scores, k = many(DRAWS), 3
    masks = subsets(5, k)
    orders = [itertools.permutations(mask.nonzero().flatten().tolist()) for mask in masks]
    luce = torch.stack([sum(ordered(scores[0], order).exp() for order in each) for each in orders])
    expected = {"plackett-luce": luce, "simple": (masks @ scores[0]).softmax(0)}
    torch.testing.assert_close(luce.sum(), torch.ones_like(luce[0]))
    for spec in ("plackett-luce", "simple"):
        drawn = ours(spec, scores, k)[0]
        assert_mean((drawn @ masks.T == k).double(), expected[spec])
    assert (expected["simple"] - luce).abs().max() > 0.02  # the families are not the same


@pytest.mark.parametrize("k", [1, 3, 6])
def test_simple_differentiates_the_exact_marginals(k):
    scores, v, masks = rows(), rows(seed=1), subsets(7, k)
    marginal = twin(lambda s: (s @ masks.T).softmax(-1) @ masks, scores, v)
    assert_same(ours("simple:forward=marginal", scores, k, v), marginal)
    drawn, grad = ours("simple", scores, k, v)
    torch.testing.assert_close(grad, marginal[1], rtol=1e-9, atol=1e-12)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(-1) == k).all()

"""Every estimator of the field against its published formula, written out again in float64 and as slow as it likes."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.stats import gumbel_r, kstest
from torch import Tensor

from gradprobe import registry
from gradprobe.core import Noise
from gradprobe.errors import UsageError
from gradprobe.relaxations import imle
from gradprobe.relaxations.softsort import _by_logarithms, _by_sums

DRAWS = 8_000
SIGMAS = 4.5  # how many standard errors a mean may be off
ONE = (1.5, -1.0, 0.3, 0.0, 0.8)


def rows(count=4, n=7, seed=0, scale=1.5):
    return scale * torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def many(count, scores=ONE):
    """The same scores for many images, whose noise is their own."""
    return torch.tensor(scores, dtype=torch.float64).repeat(count, 1)


def noise_for(scores, seed=0):
    return Noise(seed, range(len(scores)))


def ours(spec, scores, k, v=None, seed=0):
    """Weights and ``d <v, weights> / d scores``."""
    leaf = scores.clone().requires_grad_()
    weights = registry.part("relaxation", spec)(leaf, k, noise_for(scores, seed))
    if v is None:
        return weights.detach(), None
    return weights.detach(), torch.autograd.grad(weights, leaf, v.expand_as(weights))[0]


def twin(function, scores, v):
    leaf = scores.clone().requires_grad_()
    weights = function(leaf)
    return weights.detach(), torch.autograd.grad(weights, leaf, v.expand_as(weights))[0]


def assert_same(mine, other, rtol=1e-9, atol=1e-12):
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def assert_mean(draws, expected):
    """The mean of independent draws (first dimension) is what is expected, and no number is far too sure of it."""
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() <= SIGMAS * error + 1e-12).all()


def hard(values: Tensor, k: int) -> Tensor:
    """Top-K one row at a time."""
    mask = torch.zeros_like(values)
    for row, kept in zip(mask, values.tolist(), strict=True):
        row[sorted(range(len(kept)), key=lambda i: -kept[i])[:k]] = 1
    return mask


def subsets(n, k):
    return torch.tensor(
        [[float(i in kept) for i in range(n)] for kept in itertools.combinations(range(n), k)], dtype=torch.float64
    )


def laplace(x: Tensor) -> Tensor:
    return torch.where(x < 0, x.abs().neg().exp() / 2, 1 - x.abs().neg().exp() / 2)


CDFS = {
    "lapsum": laplace,
    "logistic": torch.sigmoid,
    "probit": lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2,
    "capped-simplex": lambda x: (x + 0.5).clamp(0, 1),
}


def budgeted(scores: Tensor, k: int, tau: float, cdf) -> Tensor:
    """``F((s - b) / tau)``, b by root finding and differentiated by one Newton step from there."""
    found = []
    for row in scores:
        fixed = row.detach()
        ends = float(fixed.min()) - 40 * tau, float(fixed.max()) + 40 * tau
        b = brentq(lambda b, s=fixed: float(cdf((s - b) / tau).sum()) - k, *ends, xtol=1e-14, rtol=1e-15)
        b = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(cdf((fixed - b) / tau).sum(), b)
        b = b.detach()
        found.append(cdf((row - (b - (cdf((row - b) / tau).sum() - k) / (slope if slope else 1))) / tau))
    return torch.stack(found)


# --- soft weights without noise ---


@pytest.mark.parametrize("name", CDFS)
@pytest.mark.parametrize(("k", "tau"), [(1, 1.0), (3, 0.4), (6, 2.0)])
def test_a_soft_top_k_is_a_cdf_at_the_threshold_that_spends_the_budget(name, k, tau):
    scores, v = rows(), rows(seed=1)
    expected = twin(lambda s: budgeted(s, k, tau, CDFS[name]), scores, v)
    assert_same(ours(f"{name}:tau={tau}", scores, k, v), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_capped_simplex_is_the_nearest_point_of_the_polytope(tau):
    """The definition of a projection: from it, no vertex lies on the side of what is projected."""
    scores, k = rows(8), 3
    alpha, _ = ours(f"capped-simplex:tau={tau}", scores, k)
    beyond = ((scores / tau - alpha)[:, None] * (subsets(7, k) - alpha[:, None])).sum(-1)
    assert beyond.max() < 1e-9
    assert 0 <= alpha.min() <= alpha.max() <= 1
    torch.testing.assert_close(alpha.sum(-1), torch.full((8,), float(k), dtype=torch.float64))
    if tau == 0.3:
        assert ((alpha == 0).any(-1) & (alpha == 1).any(-1)).any()  # exactly dropped and exactly kept


def softsort(s: Tensor, k: int, tau: float) -> Tensor:
    """Prillo and Eisenschlos, Eq. 2, with the distance |.|."""
    matrix = (-(s.sort(descending=True).values[:, :, None] - s[:, None, :]).abs() / tau).softmax(-1)
    return matrix[:, :k].sum(1).clamp(max=1)


def neuralsort(s: Tensor, k: int, tau: float) -> Tensor:
    """Grover et al., Eq. 5: row i is ``softmax(((n + 1 - 2 i) s - A 1) / tau)``."""
    n = s.shape[-1]
    distances = (s[:, :, None] - s[:, None, :]).abs().sum(-1)
    matrix = torch.stack([(((n + 1 - 2 * i) * s - distances) / tau).softmax(-1) for i in range(1, n + 1)], 1)
    return matrix[:, :k].sum(1).clamp(max=1)


@pytest.mark.parametrize(("name", "paper"), [("softsort", softsort), ("neuralsort", neuralsort)])
@pytest.mark.parametrize(("k", "tau"), [(1, 1.0), (3, 0.3), (5, 3.0), (6, 1.0)])
def test_a_relaxed_sort_is_the_first_rows_of_its_matrix(name, paper, k, tau):
    scores, v = rows(), rows(seed=1)
    assert_same(ours(f"{name}:tau={tau}", scores, k, v), twin(lambda s: paper(s, k, tau), scores, v))


def test_the_weights_of_softsort_do_not_depend_on_how_far_the_scores_of_another_image_reach():
    """A row that is too wide for sums of exponentials sends the whole batch through logarithms."""
    near, v = rows(3, 20), rows(4, 20, seed=1)
    far = torch.cat([near, 400 * rows(1, 20, seed=2)])
    for k in (1, 6, 19):
        alone = ours("softsort:tau=0.5", near, k, v[:3])
        together = ours("softsort:tau=0.5", far, k, v)
        assert_same([part[:3] for part in together], alone)
        assert_same(together, twin(lambda s, k=k: softsort(s, k, 0.5), far, v))


def test_both_ways_of_softsort_agree():
    t = rows(4, 30, scale=20).sort(-1, descending=True).values
    for k in (1, 9, 29):
        v = rows(4, 30, seed=3)
        assert_same(twin(lambda t, k=k: _by_sums(t, k), t, v), twin(lambda t, k=k: _by_logarithms(t, k), t, v))


def test_sigmoid_is_a_threshold_and_its_loss_asks_for_the_budget():
    scores, v = rows(), rows(seed=1)
    spec = "sigmoid:tau=0.4,threshold=0.7,ratio=3"
    mine = ours(spec, scores, 2, v)
    assert_same(mine, twin(lambda s: 1 / (1 + torch.exp((0.7 - s) / 0.4)), scores, v))
    for each in (spec, "gumbel-softmax:ratio=3"):
        loss = registry.part("relaxation", each).penalty(scores, mine[0], 2)
        by_hand = [3 * (sum(row) / 7 - 2 / 7) ** 2 for row in mine[0].tolist()]
        torch.testing.assert_close(loss, torch.tensor(by_hand, dtype=torch.float64))


# --- soft weights with noise ---


@pytest.mark.parametrize(("k", "tau"), [(1, 1.0), (3, 0.3), (6, 1.0), (4, 2.0)])
def test_relaxed_subset_is_k_softmaxes_each_without_what_was_taken(k, tau):
    """Xie and Ermon, Algorithm 2."""

    def paper(s):
        alpha = s + noise_for(s).gumbel(s.shape[1:], like=s)
        drawn = torch.zeros_like(s)
        for _ in range(k):
            p = (alpha / tau).exp() / (alpha / tau).exp().sum(-1, keepdim=True)
            drawn = drawn + p
            alpha = alpha + torch.log1p(-p)
        return drawn.clamp(max=1)

    scores, v = rows(), rows(seed=1)
    assert_same(ours(f"relaxed-subset:tau={tau}", scores, k, v), twin(paper, scores, v), rtol=1e-7)


def test_gumbel_softmax_is_torchs_with_the_logits_of_keep_and_drop(monkeypatch):
    scores, v, temperature = rows(), rows(seed=1), 0.6
    gumbels = noise_for(scores).gumbel((2, 7), like=scores).transpose(1, 2)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_((-gumbels).exp()))
    mine = ours(f"gumbel-softmax:temperature={temperature}", scores, 3, v)

    def torchs(s):
        return F.gumbel_softmax(torch.stack([s, torch.zeros_like(s)], -1), temperature, hard=True)[..., 0]

    assert_same(mine, twin(torchs, scores, v))
    assert set(mine[0].unique().tolist()) == {0.0, 1.0}


def test_gumbel_softmax_keeps_a_token_as_often_as_the_sigmoid_of_its_score():
    scores = many(DRAWS)
    for k in (1, 4):  # whatever the budget
        assert_mean(ours("gumbel-softmax:temperature=0.3", scores, k)[0], scores[0].sigmoid())


@pytest.mark.parametrize("beta", [2 / 3, 0.2])
def test_hard_concrete_is_closed_half_open_and_open_as_often_as_published(beta):
    """Louizos et al., Eq. 10 to 13: ``P(s <= x) = sigmoid(beta logit x - log alpha)``, stretched to [-0.1, 1.1]."""
    scores = many(DRAWS)
    z, _ = ours(f"hard-concrete:beta={beta!r}", scores, 2)
    assert 0 <= z.min() < z.max() <= 1
    for at in (0.0, 0.4, 0.9):
        x = torch.tensor((at + 0.1) / 1.2, dtype=torch.float64)
        assert_mean((z <= at).double(), (beta * x.logit() - scores[0]).sigmoid())
    last = torch.tensor(1.1 / 1.2, dtype=torch.float64)
    assert_mean((z == 1).double(), 1 - (beta * last.logit() - scores[0]).sigmoid())


def test_hard_concrete_is_its_gate_and_its_loss_counts_open_ones():
    beta, scores, v = 0.5, rows(), rows(seed=1)

    def paper(s):
        u = noise_for(s).uniform(s.shape[1:], like=s)
        stretched = ((u.log() - (1 - u).log() + s) / beta).sigmoid() * (1.1 + 0.1) - 0.1
        return torch.minimum(torch.ones_like(s), torch.maximum(torch.zeros_like(s), stretched))

    spec = f"hard-concrete:beta={beta},ratio=3"
    mine = ours(spec, scores, 2, v)
    assert_same(mine, twin(paper, scores, v))
    assert (mine[0] == 0).any()
    loss = registry.part("relaxation", spec).penalty(scores, mine[0], 2)
    is_open = 1 - (beta * math.log(0.1 / 1.1) - scores).sigmoid()  # 1 - P(z = 0)
    torch.testing.assert_close(loss, 3 * (is_open.mean(-1) - 2 / 7) ** 2)


def kept_under_gauss(s: Tensor, k: int, sigma: float) -> Tensor:
    """``P(i in topK(s + sigma z))``: over token i's own noise, the chance that fewer than K others are above it."""
    z = torch.linspace(-9, 9, 361, dtype=torch.float64)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi) * (z[1] - z[0])
    found = []
    for i in range(len(s)):
        count = torch.zeros(len(z), k, dtype=torch.float64)  # P(so many above), up to K - 1
        count[:, 0] = 1
        for j in set(range(len(s))) - {i}:
            above = CDFS["probit"]((s[j] - s[i]) / sigma - z)[:, None]
            count = count * (1 - above) + F.pad(count[:, :-1], (1, 0)) * above
        found.append((density * count.sum(1)).sum())
    return torch.stack(found)


@pytest.mark.parametrize("samples", [2, 5])
def test_perturbed_and_its_jacobian_have_the_mean_of_gaussian_smoothing(samples):
    scores, k, sigma = many(6_000), 2, 0.7
    one = scores[0].clone().requires_grad_()
    expected = kept_under_gauss(one, k, sigma)
    torch.testing.assert_close(expected.sum().detach(), torch.tensor(2.0, dtype=torch.float64))
    for i in range(5):
        (slope,) = torch.autograd.grad(expected[i], one, retain_graph=True)
        alpha, grad = ours(f"perturbed:sigma={sigma},samples={samples}", scores, k, torch.eye(5).double()[i], seed=i)
        assert_mean(alpha, expected.detach())
        assert_mean(grad, slope)
        assert slope[i] > 2 * SIGMAS * grad[:, i].std() / len(grad) ** 0.5  # the test can tell it from half of it


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
    seen = []
    monkeypatch.setattr(imle, "top_k_mask", lambda t, k: seen.append(t) or torch.zeros_like(t))
    ours("imle", torch.zeros(DRAWS, 2 * k, dtype=torch.float64), k)
    eps = seen[0].detach()
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


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imle:lam=nrom", "possible are lam=norm or a positive number"),
        ("imle:lam=0", "must be positive"),
        ("perturbed:samples=1", "at least 2 are needed"),
        ("perturbed:sigma=0", "must be positive"),
        ("sigmoid:ratio=-1", "must be 0 or more"),
        ("gumbel-softmax:temperature=0", "must be positive"),
        ("gumbel-softmax:ratio=nan", "must be 0 or more"),
        ("hard-concrete:ratio=-1", "must be 0 or more"),
        ("hard-concrete:beta=0", "must be positive"),
        ("shiva:sigma=-1", "must be 0 or more"),
        ("shiva:tau_r=0", "must be positive"),
        ("shiva:tau_s=-1", "must be positive"),
        ("reinmax:tau_q=0", "must be positive"),
        ("decoupled-ste:tau_f=0", "must be positive"),
        ("decoupled-ste:tau_b=inf", "must be positive"),
        ("simple:forward=marginals", "did you mean 'marginal'"),
        *((f"{name}:tau=0", "must be positive") for name in ("probit", "capped-simplex", "softsort", "neuralsort")),
        ("relaxed-subset:tau=0", "must be positive"),
    ],
)
def test_a_value_that_means_nothing_is_one_line(spec, words):
    with pytest.raises(UsageError) as caught:
        registry.part("relaxation", spec)
    assert words in str(caught.value)
    assert spec.partition(":")[0] in str(caught.value)
    assert "\n" not in str(caught.value)

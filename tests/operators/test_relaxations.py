"""Soft weights of the field against their published formulas, written out again in float64, as slow as they like."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from twins import CDFS, DRAWS, SIGMAS, assert_mean, assert_same, budgeted, many, noise_for, ours, rows, subsets, twin

from gradprobe.errors import UsageError
from gradprobe.operators import registry
from gradprobe.operators.relaxations.softsort import _by_logarithms, _by_sums

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


@pytest.mark.parametrize("name", ["softsort", "neuralsort"])
def test_a_relaxed_sort_does_not_depend_on_how_far_all_scores_lie_from_0(name):
    away = rows(3, 200).float() + 1000
    near = away - 1000  # exact
    v = rows(3, 200, seed=1).float()
    assert_same(ours(f"{name}:tau=0.3", away, 58, v), ours(f"{name}:tau=0.3", near, 58, v), rtol=0, atol=2e-3)


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


@pytest.mark.parametrize("tau", [0.1, 1.0])
@pytest.mark.parametrize("scale", [30, 300])
def test_relaxed_subset_is_right_where_a_softmax_rounds_to_1(scale, tau):
    """``1 - p`` is the share of all others, summed without p; a token that took all would else be taken again."""
    others = ~torch.eye(7, dtype=torch.bool)

    def paper(s):
        alpha = s + noise_for(s).gumbel(s.shape[1:], like=s)
        drawn = torch.zeros_like(s)
        for _ in range(3):
            logits = alpha / tau
            drawn = drawn + logits.softmax(-1)
            rest = torch.stack([logits[:, each].logsumexp(-1) for each in others], -1)
            alpha = alpha + rest - logits.logsumexp(-1, keepdim=True)
        return drawn.clamp(max=1)

    scores, v = rows(scale=scale), rows(seed=1)
    expected = twin(paper, scores, v)
    assert_same(ours(f"relaxed-subset:tau={tau}", scores, 3, v), expected, rtol=1e-7, atol=1e-9)
    rounded = ours(f"relaxed-subset:tau={tau}", scores.float(), 3, v.float())
    assert_same(rounded[:1], [ours(f"relaxed-subset:tau={tau}", scores.float().double(), 3)[0].float()], 0, 1e-4)


@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_neuralsort_loses_no_digit_to_its_logits_and_shares_alike_among_equal_scores(tau):
    scores = rows(4, 600, scale=3).float()
    scores[:, ::3] = scores[:, :1]
    alpha, _ = ours(f"neuralsort:tau={tau}", scores, 64)
    exact, _ = ours(f"neuralsort:tau={tau}", scores.double(), 64)
    assert (alpha - exact).abs().max() < 2e-6
    assert (alpha[:, ::3].amax(1) - alpha[:, ::3].amin(1)).max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", registry.RELAXATIONS)
def test_weights_of_half_precision_are_rounded_once(name, dtype):
    """Rounded before they are compared, perturbed scores would be equal, and the first tokens of an image win."""
    for scores in (torch.full((4, 60), 30.0), rows(4, 60, scale=8).to(dtype).float()):
        mine = registry.part("relaxation", name)(scores.to(dtype), 20, noise_for(scores))
        assert torch.equal(mine, registry.part("relaxation", name)(scores, 20, noise_for(scores)).to(dtype))


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
    chances = []
    for i in range(len(s)):
        count = torch.zeros(len(z), k, dtype=torch.float64)  # P(so many above), up to K - 1
        count[:, 0] = 1
        for j in set(range(len(s))) - {i}:
            above = CDFS["probit"]((s[j] - s[i]) / sigma - z)[:, None]
            count = count * (1 - above) + F.pad(count[:, :-1], (1, 0)) * above
        chances.append((density * count.sum(1)).sum())
    return torch.stack(chances)


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


# --- wrong values ---


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imle:lam=nrom", "possible are lam=norm or a positive number"),
        ("imle:lam=0", "must be positive"),
        ("perturbed:samples=1", "give 2 to 100000"),
        ("perturbed:sigma=0", "must be positive"),
        ("sigmoid:ratio=-1", "must be 0 or more"),
        ("gumbel-softmax:temperature=0", "must be positive"),
        ("gumbel-softmax:ratio=nan", "must be 0 or more"),
        ("hard-concrete:ratio=-1", "must be 0 or more"),
        ("hard-concrete:beta=0", "must be positive"),
        ("shiva:sigma=-1", "must be 0 or more"),
        *(
            (f"{field}=inf", "must be 0 or more, and finite")
            for field in (
                "sigmoid:ratio",
                "gumbel-softmax:ratio",
                "hard-concrete:ratio",
                "gumbel-ste:scale",
                "shiva:sigma",
            )
        ),
        ("sigmoid:threshold=nan", "must be a finite number"),
        ("sigmoid:threshold=inf", "must be a finite number"),
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

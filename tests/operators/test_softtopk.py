"""The budgeted soft top-K: shared inputs x properties, a brute-force twin, and every way to differentiate it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import CASES, TAUS, cases, cdfs, crawling, questions, twin

from gradprobe.errors import UsageError
from gradprobe.operators.softtopk import soft_topk

# torch.func imports a torch module that still uses the deprecated torch.jit
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


# the weights


@cdfs
@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_lie_in_0_1_and_sum_to_the_budget(cdf, case, dtype):
    scores, k, tau = questions(case, dtype)
    alpha = soft_topk(scores, k, tau, cdf)
    n = scores.shape[-1]
    rounding = n * torch.finfo(dtype).eps / 2
    assert alpha.dtype == dtype and alpha.shape == scores.shape
    assert ((alpha >= 0) & (alpha <= 1)).all()
    assert ((alpha.double().sum(-1) - k).abs() <= 1e-9 * n + rounding).all()


@cdfs
@cases
def test_weights_are_monotone_and_ties_share(cdf, case):
    scores, k, tau = questions(case)
    alpha = soft_topk(scores, k, tau, cdf)
    order = scores.argsort(-1)
    steps = alpha.gather(-1, order).diff(dim=-1)
    equal = scores.gather(-1, order).diff(dim=-1) == 0
    assert (steps >= -1e-15).all()
    assert (steps[equal] == 0).all()


@cdfs
@cases
def test_complement(cdf, case):
    scores, k, tau = questions(case)
    alpha = soft_topk(scores, k, tau, cdf)
    other = soft_topk(-scores, scores.shape[-1] - k, tau, cdf)
    torch.testing.assert_close(alpha, 1 - other, atol=1e-10, rtol=0)


@cdfs
@cases
def test_permuting_the_scores_permutes_the_weights(cdf, case):
    scores, k, tau = questions(case)
    alpha = soft_topk(scores, k, tau, cdf)
    order = torch.randperm(scores.shape[-1], generator=torch.Generator().manual_seed(1))
    permuted = soft_topk(scores[..., order], k, tau, cdf)
    torch.testing.assert_close(permuted, alpha[..., order], atol=1e-15, rtol=0)  # F itself may round by its place


@cdfs
def test_a_shift_that_loses_no_digit_changes_no_bit(cdf):
    scores, k, tau = questions("normal")
    scores = (scores * 2**20).round() / 2**20
    assert torch.equal(soft_topk(scores + 1024, k, tau, cdf), soft_topk(scores, k, tau, cdf))


@cdfs
@cases
def test_equals_the_twin(cdf, case):
    scores, k, tau = questions(case)
    alpha = soft_topk(scores, k, tau, cdf)
    inner = (k > 0) & (k < scores.shape[-1]) & (tau > 0.01)
    rows = zip(scores[inner].numpy(), k[inner].tolist(), tau[inner].tolist(), strict=True)
    wanted = np.stack([twin(*row, cdf) for row in rows])
    lost = (scores[inner].abs().amax(-1, keepdim=True) / tau[inner][:, None]).numpy()  # the twin has no anchor
    assert (np.abs(alpha[inner].numpy() - wanted) <= 1e-9 + 1e-14 * lost).all()


@cdfs
def test_small_tau_is_hard_top_k(cdf):
    scores = CASES["normal"]
    for k in range(scores.shape[-1] + 1):
        hard = torch.zeros_like(scores).scatter(-1, scores.topk(k).indices, 1)
        for tau in (1e-6, 1e-8, 1e-12):
            assert torch.equal(soft_topk(scores, k, tau, cdf), hard)


@cdfs
def test_small_tau_splits_a_broken_budget_and_ties(cdf):
    scores = torch.tensor([5.0, 4.0, 4.0, 4.0, -1e4], dtype=torch.float64)
    torch.testing.assert_close(soft_topk(scores, 2, 1e-8, cdf), torch.tensor([1, 1 / 3, 1 / 3, 1 / 3, 0]).to(scores))
    scores = torch.tensor([1e4, -1e4, 1e4 - 1, 0], dtype=torch.float64)
    torch.testing.assert_close(soft_topk(scores, 1.25, 1e-8, cdf), torch.tensor([1, 0, 0.25, 0]).to(scores))


@cdfs
@cases
def test_ends_of_the_budget_are_exact(cdf, case):
    scores = CASES[case]
    for tau in TAUS.tolist():
        assert torch.equal(soft_topk(scores, 0, tau, cdf), torch.zeros_like(scores))
        assert torch.equal(soft_topk(scores, scores.shape[-1], tau, cdf), torch.ones_like(scores))


@cdfs
@pytest.mark.parametrize("n", [1, 2, 3, 5, 196, 100_000])
def test_any_number_of_tokens(cdf, n):
    scores = torch.randn(2, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    scores[1] = (3 * scores[1]).round()
    for tau, dtype in itertools.product((10.0, 0.1, 1e-8), (torch.float64, torch.float32)):
        for k in (1, 0.3 * n, n - 0.5):
            alpha = soft_topk(scores.to(dtype), k, tau, cdf).double()
            assert ((alpha >= 0) & (alpha <= 1)).all()
            assert ((alpha.sum(-1) - k).abs() <= (1e-9 + torch.finfo(dtype).eps / 2) * n).all()


@cdfs
def test_scores_of_many_scales_and_budgets_near_whole_numbers(cdf):
    for scores, k, tau in crawling(1, (2, 13, 17, 18, 21, 300)):
        alpha = soft_topk(scores, k, tau, cdf)
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert ((alpha.sum(-1) - k).abs() <= 1e-11 * scores.shape[-1]).all()


@settings(max_examples=60)
@given(data=st.data())
@cdfs
def test_any_scores(cdf, data):
    values = st.floats(-1e6, 1e6, allow_subnormal=False)
    scores = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=12)), dtype=torch.float64)
    k = data.draw(st.floats(0, len(scores)))
    tau = 10 ** data.draw(st.floats(-8, 1))
    alpha = soft_topk(scores, k, tau, cdf)
    assert ((alpha >= 0) & (alpha <= 1)).all()
    assert abs(alpha.sum().item() - k) <= 1e-9 * len(scores)
    assert (alpha[scores.argsort()].diff() >= -1e-15).all()


def test_a_wide_gap_over_tau_is_not_all_ones():
    """LapSum's published code returns N ones here: the gap at the boundary over tau underflows float32."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    for tau in (1e-2, 1e-4, 1e-6):
        torch.testing.assert_close(soft_topk(scores, 2, tau), torch.tensor([[1.0, 1, 0, 0]]), atol=1e-20, rtol=0)


def test_logistic_is_entropic_optimal_transport_with_two_anchors():
    scores, k, tau = CASES["normal"], 5, 0.5
    n = scores.shape[-1]
    kernel = torch.exp(-(torch.stack([scores, scores - 1], -1) ** 2) / (2 * tau))
    masses = torch.tensor([n - k, k]).to(scores)
    scale = torch.ones(len(scores), 1, 2).to(scores)
    for _ in range(2000):
        plan = kernel * scale / (kernel * scale).sum(-1, keepdim=True)
        scale = scale * masses / plan.sum(-2, keepdim=True)
    torch.testing.assert_close(soft_topk(scores, k, tau, "logistic"), plan[..., 1], atol=1e-9, rtol=0)


def test_linear_is_the_projection_onto_the_capped_simplex():
    """<s / tau - alpha, y - alpha> <= 0 for every corner y of {0 <= y <= 1, sum y = K}."""
    scores, k, tau = CASES["normal"][:, :8], 3, 0.7
    alpha = soft_topk(scores, k, tau, "linear")
    assert ((alpha == 0).any() and (alpha == 1).any()).item()
    for kept in itertools.combinations(range(8), k):
        corner = torch.zeros_like(alpha)
        corner[:, kept] = 1
        assert (((scores / tau - alpha) * (corner - alpha)).sum(-1) <= 1e-12).all()


# dtypes, shapes, bad input


@cdfs
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype_is_solved_in_float64_and_rounded_once(cdf, dtype):
    scores = CASES["normal"].to(dtype)
    leaf, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
    alpha, wanted = soft_topk(leaf, 4.5, 0.5, cdf), soft_topk(exact, 4.5, 0.5, cdf)
    assert alpha.dtype == dtype and torch.equal(alpha, wanted.to(dtype))
    v = scores.cos()
    alpha.backward(v)
    wanted.backward(v.double())
    assert leaf.grad.dtype == dtype and torch.equal(leaf.grad, exact.grad.to(dtype))


@cdfs
def test_batch_shapes_and_memory_layouts(cdf):
    scores = CASES["normal"]
    whole = soft_topk(scores, 5, 0.5, cdf)
    for i, row in enumerate(scores):
        torch.testing.assert_close(soft_topk(row, 5, 0.5, cdf), whole[i], atol=1e-12, rtol=0)
    assert torch.equal(soft_topk(scores.reshape(2, 1, 2, -1), 5, 0.5, cdf).reshape(scores.shape), whole)
    for other in (scores.T.contiguous().T, scores.repeat_interleave(2, -1)[:, ::2]):
        torch.testing.assert_close(soft_topk(other, 5, 0.5, cdf), whole, atol=1e-15, rtol=0)
    assert soft_topk(scores[:0], 5, 0.5, cdf).shape == (0, scores.shape[-1])
    assert soft_topk(scores[:0], torch.ones(0), 0.5, cdf).shape == (0, scores.shape[-1])


@cdfs
def test_budget_and_temperature_as_tensors(cdf):
    scores, k, tau = CASES["normal"], torch.tensor([1, 2.5, 8, 16]), torch.tensor([0.1, 1, 2, 10])
    alpha = soft_topk(scores, k, tau, cdf)
    for i in range(4):
        one = soft_topk(scores[i], k[i].item(), tau[i].item(), cdf)
        torch.testing.assert_close(alpha[i], one, atol=1e-7, rtol=0)  # 0.1 as float32
    assert torch.equal(soft_topk(scores, torch.tensor(5), torch.tensor(0.5), cdf), soft_topk(scores, 5, 0.5, cdf))


@cdfs
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_score_shows_in_its_row_and_only_there(cdf, bad):
    scores = CASES["normal"].clone()
    wanted = soft_topk(scores, 5, 0.5, cdf)
    scores[1, 3] = bad
    leaf = scores.requires_grad_()
    for k in (5, 0, 17):
        assert soft_topk(leaf, k, 0.5, cdf)[1].isnan().all()
    alpha = soft_topk(leaf, 5, 0.5, cdf)
    torch.testing.assert_close(alpha[[0, 2, 3]], wanted[[0, 2, 3]], atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(alpha.square().sum(), leaf)
    assert gradient[1].isnan().all() and gradient[[0, 2, 3]].isfinite().all()


@cdfs
def test_the_input_is_never_written_to(cdf):
    scores = CASES["normal"].clone().requires_grad_()
    k, tau = torch.tensor(5.5, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    versions = scores._version, k._version, tau._version
    soft_topk(scores, k, tau, cdf).square().sum().backward()
    assert (scores._version, k._version, tau._version) == versions
    assert torch.equal(scores.detach(), CASES["normal"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": -0.1}, "k=-0.1 is no budget for 17 tokens; give 0 <= k <= 17"),
        ({"k": 18}, "k=18 is no budget"),
        ({"k": float("nan")}, "k=nan"),
        ({"k": torch.tensor([1.0, 2, 3, 18])}, "k=18"),
        ({"k": torch.tensor([1.0, 2, float("nan"), 3])}, "k=nan"),
        ({"k": torch.ones(3)}, r"k of shape \(3,\); give a number or one that fits \(4,\)"),
        ({"tau": 0}, "tau=0 is no temperature"),
        ({"tau": -1.0}, "tau=-1"),
        ({"tau": float("inf")}, "tau=inf"),
        ({"tau": float("nan")}, "tau=nan"),
        ({"tau": torch.tensor([1.0, 1, 1, 0])}, "tau=0"),
        ({"tau": torch.ones(5)}, r"tau of shape \(5,\)"),
        ({"cdf": "laplac"}, "no CDF 'laplac'; did you mean 'laplace'"),
        ({"scores": torch.arange(6)}, "torch.int64 scores"),
        ({"scores": torch.tensor(1.0)}, r"shape \(\); give"),
        ({"scores": torch.zeros(3, 0)}, r"shape \(3, 0\)"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(change, words):
    question = {"scores": CASES["normal"], "k": 5, "tau": 1.0, "cdf": "laplace"} | change
    with pytest.raises(UsageError, match=words) as error:
        soft_topk(**question)
    assert "\n" not in str(error.value)

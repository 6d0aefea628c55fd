"""The budgeted soft top-K: shared inputs x properties, a brute-force twin, and every way to differentiate it."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from catalogue import score_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, ndtr
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.softtopk import CDFS, soft_topk

CASES = score_cases()
TAUS = torch.tensor([10.0, 1, 0.1, 1e-3, 1e-8], dtype=torch.float64)
TWINS = {
    "laplace": lambda x: np.where(x < 0, np.exp(-np.abs(x)) / 2, 1 - np.exp(-np.abs(x)) / 2),
    "logistic": expit,
    "gaussian": ndtr,
    "linear": lambda x: np.clip(x + 0.5, 0, 1),
}

# torch.func imports a torch module that still uses the deprecated torch.jit
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

cdfs = pytest.mark.parametrize("cdf", CDFS)
cases = pytest.mark.parametrize("case", CASES)


def budgets(n: int) -> Tensor:
    """Whole and broken budgets, both ends, and some within rounding of a whole number."""
    return torch.tensor(
        sorted({0, 1e-6, 0.5, 1, n // 3, n / 3, n // 2 + 1e-13, n - 1, n - 0.5, n - 1e-6, n}), dtype=torch.float64
    ).clamp(0, n)


def questions(case: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ``(taus, budgets, 4, N)``, budgets and temperatures ``(taus, budgets, 4)``: all with all."""
    scores = CASES[case].to(dtype)
    k = budgets(scores.shape[-1])
    shape = len(TAUS), len(k), len(scores)
    return scores.expand(*shape[:2], *scores.shape), k[None, :, None].expand(shape), TAUS[:, None, None].expand(shape)


def twin(scores: np.ndarray, k: float, tau: float, cdf: str) -> np.ndarray:
    """One row by numpy and scipy's root finder."""
    f = TWINS[cdf]
    reach = 40 * tau + 1
    b = brentq(lambda b: f((scores - b) / tau).sum() - k, scores.min() - reach, scores.max() + reach, xtol=1e-15)
    return f((scores - b) / tau)


def central(f, x: Tensor, step: float) -> Tensor:
    """Central differences of f at a vector x: ``(..., N)``, the derivative for x in the last dimension."""
    return torch.stack([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in torch.eye(len(x)).to(x)], -1)


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
    """Where a root finder crawls or leaves its bracket; found by random search, kept as it was."""
    generator = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    for n in (2, 13, 17, 18, 21, 300):
        rows = 30_000 // n
        scores = (uniform(rows, n) - 0.5) * 10 ** (8 * uniform(rows, n) + 10 * uniform(rows, 1) - 9)
        scores = torch.where(uniform(rows, n) < uniform(rows, 1) / 2, scores[:, :1], scores)
        k = n * uniform(rows)
        near = (k.round() + (uniform(rows) - 0.5) * 10 ** (-16 * uniform(rows))).clamp(0, n)
        k = torch.where(uniform(rows) < 0.5, k, near)
        alpha = soft_topk(scores, k, 10 ** (9 * uniform(rows) - 8), cdf)
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert ((alpha.sum(-1) - k).abs() <= 1e-11 * n).all()


@settings(max_examples=60, deadline=None)
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@cdfs
@cases
def test_a_gpu_gives_the_same(cdf, case):
    scores, k, tau = questions(case)
    alpha = soft_topk(scores.cuda(), k.cuda(), tau.cuda(), cdf)
    torch.testing.assert_close(alpha.cpu(), soft_topk(scores, k, tau, cdf), atol=1e-10, rtol=0)


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


# derivatives


@cdfs
@pytest.mark.parametrize("case", ["normal", "ties", "zeros", "one outlier", "far from zero"])
@pytest.mark.parametrize("tau", [10.0, 1.0, 0.1])
def test_jacobian(cdf, case, tau):
    for row, k in ((CASES[case][0], 5.0), (CASES[case][1], 11.4)):
        f = partial(soft_topk, k=k, tau=tau, cdf=cdf)
        j = jacrev(f)(row)
        torch.testing.assert_close(j, j.T, atol=1e-12 / tau, rtol=0)
        torch.testing.assert_close(j.sum(-1), torch.zeros_like(row), atol=1e-12 / tau, rtol=0)
        assert torch.linalg.eigvalsh(j).min() >= -1e-12 / tau
        torch.testing.assert_close(j, jacfwd(f)(row), atol=1e-12 / tau, rtol=0)
        steps = 1e-5 * tau * torch.eye(len(row), dtype=row.dtype)
        numeric = (f(row + steps) - f(row - steps)).T / (2e-5 * tau)
        torch.testing.assert_close(j, numeric, atol=1e-5 / tau, rtol=0)


@cdfs
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_derivatives_for_budget_and_temperature(cdf, tau):
    scores = CASES["normal"][0]
    v = scores.cos()
    for k in (1.3, 5.4, 16.2):
        both = torch.tensor([k, tau], dtype=torch.float64)
        value = lambda b: (soft_topk(scores, b[0], b[1], cdf) * v).sum()  # noqa: E731
        torch.testing.assert_close(grad(value)(both), central(value, both, 1e-6), atol=1e-6, rtol=1e-6)
    leaf = scores.clone().requires_grad_()
    k, tau_ = torch.tensor(5.4, dtype=torch.float64, requires_grad=True), torch.tensor(tau, requires_grad=True)
    alpha = soft_topk(leaf, k, tau_, cdf)
    gs, _, gt = torch.autograd.grad(alpha, (leaf, k, tau_), v)
    torch.testing.assert_close(gt.double(), -(gs * scores).sum() / tau_.detach().double(), atol=1e-6, rtol=1e-5)
    assert torch.autograd.grad(soft_topk(leaf, k, tau_, cdf).sum(), k)[0].item() == pytest.approx(1)


@cdfs
def test_first_and_second_order_gradcheck(cdf):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([2, 3.3, 5], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor([0.7, 1, 2], dtype=torch.float64, requires_grad=True)
    f = lambda s, k, tau: soft_topk(s, k, tau, cdf)  # noqa: E731
    assert gradcheck(
        f, (scores, k, tau), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(f, (scores, k, tau), check_fwd_over_rev=True, check_rev_over_rev=True)


@cdfs
def test_torch_func(cdf):
    scores = CASES["normal"][:, :7].contiguous()
    w = scores[0].cos()

    def loss(s: Tensor) -> Tensor:
        return (soft_topk(s, 3, 0.8, cdf) * w).square().sum()

    gradients = torch.stack([grad(loss)(row) for row in scores])
    leaf = scores.clone().requires_grad_()
    sum(loss(row) for row in leaf).backward()
    near = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(gradients, leaf.grad, **near)
    torch.testing.assert_close(vmap(grad(loss))(scores), gradients, **near)
    torch.testing.assert_close(grad(lambda s: vmap(loss)(s).sum())(scores), gradients, **near)

    f = lambda s: soft_topk(s, 3, 0.8, cdf)  # noqa: E731
    whole = f(scores)
    torch.testing.assert_close(vmap(f)(scores), whole, **near)
    torch.testing.assert_close(vmap(f, in_dims=1, out_dims=1)(scores.T.contiguous()), whole.T, **near)
    value, tangent = jvp(f, (scores[0],), (w,))
    out, pull = vjp(f, scores[0])
    torch.testing.assert_close(value, out, **near)
    torch.testing.assert_close(tangent, pull(w)[0], **near)  # a symmetric Jacobian

    k = torch.tensor([1.0, 2.5, 7], dtype=torch.float64)
    tau = torch.tensor([0.3, 1, 2], dtype=torch.float64)
    grid = vmap(vmap(lambda s, k, tau: soft_topk(s, k, tau, cdf), (None, 0, 0)), (0, None, None))(scores, k, tau)
    for i, j in itertools.product(range(4), range(3)):
        torch.testing.assert_close(grid[i, j], soft_topk(scores[i], k[j].item(), tau[j].item(), cdf), **near)
    with pytest.raises(UsageError, match="k=14"):
        vmap(lambda k: soft_topk(scores[0], k, 1.0, cdf))(2 * k)


@cdfs
def test_hessian_and_third_derivative(cdf):
    row = CASES["normal"][0, :6]
    w = row.cos()

    def loss(s: Tensor) -> Tensor:
        return (soft_topk(s, 2.6, 0.9, cdf) * w).square().sum()

    wanted = central(grad(loss), row, 1e-5)
    batch = vmap(hessian(loss))(torch.stack([row, row]))
    plain = torch.autograd.functional.hessian(loss, row)
    for got in (hessian(loss)(row), jacrev(jacrev(loss))(row), jacrev(jacfwd(loss))(row), *batch, plain):
        torch.testing.assert_close(got, wanted, atol=1e-7, rtol=0)
    torch.testing.assert_close(jacrev(hessian(loss))(row), central(hessian(loss), row, 1e-5), atol=1e-6, rtol=0)


@cdfs
def test_forward_over_forward_is_refused_not_wrong(cdf):
    with pytest.raises(GradprobeError, match="forward over forward"):
        jacfwd(jacfwd(lambda s: soft_topk(s, 2, 1.0, cdf).square().sum()))(CASES["normal"][0])


@cdfs
@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_first_and_second_gradients_are_finite(cdf, case, dtype):
    leaves = [x.clone().requires_grad_() for x in questions(case, dtype)]
    scores, k, tau = leaves
    v = CASES["normal"].cos().to(dtype)
    first = torch.autograd.grad((soft_topk(scores, k, tau, cdf) * v).sum(), leaves, create_graph=True)
    assert all(g.isfinite().all() for g in first)
    assert (first[0].detach().double().sum(-1).abs() <= 1e-6 / tau).all()
    ends = (k == 0) | (k == scores.shape[-1])
    assert (first[0][ends] == 0).all() and (first[2][ends] == 0).all()
    (second,) = torch.autograd.grad((first[0] * v).sum(), scores)
    assert second.isfinite().all()


@cdfs
def test_hard_weights_have_zero_gradient_and_a_shared_one_for_the_budget(cdf):
    scores = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    alpha = soft_topk(scores, k, 1e-8, cdf)
    gs, gk = torch.autograd.grad(alpha, (scores, k), torch.tensor([8.0, 4, 2, 1], dtype=torch.float64))
    assert torch.equal(gs, torch.zeros_like(gs))
    assert gk.item() == pytest.approx(3)  # the next token in, the last one out: (2 + 4) / 2

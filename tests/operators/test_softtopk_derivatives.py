"""Every way to differentiate the budgeted soft top-K."""

import itertools
from functools import partial

import pytest
import torch
from questions import CASES, cases, cdfs, central, questions
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.softtopk import soft_topk

# torch.func imports a torch module that still uses the deprecated torch.jit
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


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

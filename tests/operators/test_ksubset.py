"""The exponential family on subsets of size K, against sums over all subsets."""

import itertools

import pytest
import torch

from gradprobe.operators.ksubset import marginals, sample
from gradprobe.testing.cases import score_cases


def subsets(n, k):
    return torch.tensor(
        [[float(i in kept) for i in range(n)] for kept in itertools.combinations(range(n), k)], dtype=torch.float64
    )


def brute(scores, k):
    """Marginals of one row, by enumeration."""
    masks = subsets(len(scores), k)
    return (masks @ scores).softmax(0) @ masks


@pytest.mark.parametrize("n", [2, 5, 8])
def test_marginals_and_their_jacobian_are_the_sums_over_all_subsets(n):
    rows = torch.randn(3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    for k in range(1, n):
        expected = torch.stack([brute(row, k) for row in rows])
        torch.testing.assert_close(marginals(rows, k), expected, rtol=1e-12, atol=1e-14)
        mine = torch.autograd.functional.jacobian(lambda s, k=k: marginals(s[None], k)[0], rows[0])
        torch.testing.assert_close(
            mine, torch.autograd.functional.jacobian(lambda s, k=k: brute(s, k), rows[0]), rtol=1e-10, atol=1e-13
        )


def test_second_derivatives_are_right_too():
    row = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine, other = (
        torch.autograd.functional.hessian(lambda s, f=f: f(s).pow(2).sum(), row)
        for f in (lambda s: marginals(s[None], 2)[0], lambda s: brute(s, 2))
    )
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [17, 196])
def test_on_every_case_marginals_sum_to_k_and_samples_have_k(n):
    for case, scores in score_cases(n).items():
        uniforms = torch.rand(4, 2 * n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        for k in (1, n // 3, n - 1):
            leaf = scores.clone().requires_grad_()
            mu = marginals(leaf, k)
            (grad,) = torch.autograd.grad(mu.square().sum(), leaf)
            assert (mu.sum(-1) - k).abs().max() < 1e-9, case
            assert 0 <= mu.min() <= mu.max() <= 1, case
            assert torch.isfinite(grad).all(), case
            mask = sample(scores, k, uniforms)
            assert set(mask.unique().tolist()) <= {0.0, 1.0}, case
            assert (mask.sum(-1) == k).all(), case


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 5), (4, 1)])
def test_samples_come_as_often_as_the_family_says(n, k):
    scores = torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    masks, rows = subsets(n, k), 40_000
    p = (masks @ scores).softmax(0)
    uniforms = torch.rand(rows, 2 * n, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    drawn = sample(scores.expand(rows, n), k, uniforms)
    counts = (drawn @ masks.T == k).double().mean(0)
    assert ((counts - p).abs() < 4.5 * (p * (1 - p) / rows).sqrt()).all()


def test_rows_do_not_depend_on_their_neighbours():
    scores = torch.randn(6, 40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    scores[3] *= 100  # nearly certain coins: needs more terms than the others
    together = marginals(scores, 11)
    alone = torch.cat([marginals(row[None], 11) for row in scores])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)

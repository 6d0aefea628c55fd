"""Where a CPU looks at its numbers to stop early, a GPU computes on instead, to the same weights and without a wait."""

import pytest
import torch
from far_device import far, far_device
from questions import cases, cdfs, crawling, questions

from gradprobe.core import Noise
from gradprobe.deferred import deferring
from gradprobe.errors import UsageError
from gradprobe.operators import ksubset
from gradprobe.operators.ksubset import marginals
from gradprobe.operators.registry import part
from gradprobe.operators.softtopk import soft_topk


@cdfs
@cases
def test_a_fixed_number_of_steps_gives_the_weights(cdf, case):
    scores, k, tau = questions(case)
    with far_device() as waits, deferring():
        alpha = soft_topk(far(scores), far(k), far(tau), cdf)
        assert len(waits) == 0
    n = scores.shape[-1]
    assert ((alpha.near.sum(-1) - k).abs() <= 1e-11 * n).all()
    assert torch.allclose(alpha.near, soft_topk(scores, k, tau, cdf), rtol=0, atol=1e-10)


@cdfs
def test_a_fixed_number_of_steps_is_enough_for_scores_of_many_scales_and_broken_budgets(cdf):
    for scores, k, tau in crawling(7, (2, 3, 8, 18, 64, 300)):
        with far_device():
            alpha = soft_topk(far(scores), far(k), far(tau), cdf).near
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert ((alpha.sum(-1) - k).abs() <= 1e-11 * scores.shape[-1]).all()


@pytest.mark.parametrize(("k", "tau"), [(5.0, 1.0), (-1.0, 1.0), (2.0, 0.0), (2.0, torch.inf), (torch.nan, 1.0)])
def test_budgets_and_temperatures_that_mean_nothing_are_refused_in_the_same_words(k, tau):
    scores, k, tau = torch.zeros(2, 4), torch.tensor([1.0, k]), torch.tensor([1.0, tau])
    with pytest.raises(UsageError) as near:
        soft_topk(scores, k, tau)
    with far_device() as waits, pytest.raises(UsageError) as later, deferring():
        soft_topk(far(scores), far(k), far(tau))
        assert len(waits) == 0
    assert str(later.value) == str(near.value)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (9, 4), (50, 49), (196, 58)])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 30.0])
def test_marginals_of_all_terms_are_those_of_the_terms_above_rounding(n, k, spread):
    scores = spread * torch.randn(3, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    with far_device() as waits:
        mu = marginals(far(scores), k)
    assert len(waits) == 0
    assert torch.allclose(mu.near, marginals(scores, k), rtol=1e-9, atol=1e-12)


def test_marginals_of_too_many_tokens_for_all_terms_look_once(monkeypatch):
    scores = torch.randn(3, 196, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(ksubset, "AT_ONCE", 196)
    with far_device() as waits:
        mu = marginals(far(scores), 58)
    assert waits.counts == {"item": 1}
    assert torch.allclose(mu.near, marginals(scores, 58), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_softsort_by_logarithms_is_softsort_by_sums(tau):
    scores = torch.randn(3, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    relaxation = part("relaxation", f"softsort:tau={tau}")
    with far_device() as waits:
        alpha = relaxation(far(scores), 7, Noise(0, (0, 1, 2)))
    assert len(waits) == 0
    assert torch.allclose(alpha.near, relaxation(scores, 7, Noise(0, (0, 1, 2))), rtol=1e-9, atol=1e-12)

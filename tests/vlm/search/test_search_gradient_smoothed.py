"""The gradient of the smoothed deployed loss is that of the exact expectation over all whole schedules."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm
from searched import FEW, asked

from gradprobe.vlm.search.gradient import measure
from gradprobe.vlm.search.gradient.pieces import opened
from gradprobe.vlm.search.gradient.points import whole_counts
from gradprobe.vlm.search.gradient.settings import GradientSettings
from gradprobe.vlm.search.gradient.smoothed import expected_draws, moments, pair_estimates

N = 9
COUNTS = np.array([6.2, 3.4, 1.3])


def exact_gradient(loss, counts, sigma, n):
    """Central differences of the expectation, summed over all whole counts that have a chance, in double precision."""

    def chances(centre):
        edges = np.array([-np.inf, *np.arange(1.5, n), np.inf])
        return np.diff(norm.cdf((edges - centre[:, None]) / sigma), axis=1)  # (C, n)

    likely = [np.flatnonzero(each > 1e-7) for each in chances(counts)]
    schedules = [whole_counts(np.array([n, *(k + 1 for k in each)], float), n) for each in product(*likely)]
    table = np.array([loss(each) for each in schedules])

    def expectation(centre):
        weights = np.ones(1)
        for each, own in zip(chances(centre), likely, strict=True):
            weights = np.outer(weights, each[own]).ravel()
        return weights @ table

    steps = 1e-4 * np.eye(len(counts))
    return np.stack([(expectation(counts + step) - expectation(counts - step)) / 2e-4 for step in steps], -1)


def drawn(loss, counts, sigma, n, draws, seed):
    z = np.random.default_rng(seed).normal(size=(draws, len(counts)))
    signed = np.stack([z, -z], 1)
    moved = np.clip(np.round(counts + sigma * signed), 1, n)
    losses = np.array([[loss(whole_counts(np.array([n, *each]), n)) for each in pair] for pair in moved])
    return losses, expected_draws(counts, moved, sigma, n), moments(counts, sigma, n)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_expected_draws_have_mean_0_and_their_second_moment(sigma):
    edges = np.array([-np.inf, *np.arange(1.5, N), np.inf])
    chances = np.diff(norm.cdf((edges - COUNTS[:, None]) / sigma), axis=1).T  # (N, C)
    z = expected_draws(COUNTS, np.arange(1, N + 1)[:, None] * np.ones(3), sigma, N)
    assert np.isfinite(z).all() and (np.diff(z, axis=0) > 0).all()
    assert (chances * z).sum(0) == pytest.approx(0, abs=1e-12)
    assert (chances * z**2).sum(0) == pytest.approx(moments(COUNTS, sigma, N))
    assert (moments(COUNTS, sigma, N) < 1).all()


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("draws", [3, 16])
def test_the_estimate_is_unbiased_for_any_table_of_losses(sigma, draws):
    table = np.random.default_rng(1).normal(size=(N + 1,) * 3) + np.arange(N + 1)[:, None, None]

    def loss(counts):
        return np.array([table[counts[1:]]])

    truth = exact_gradient(loss, COUNTS, sigma, N)[0]
    estimates = np.array([
        pair_estimates(*drawn(loss, COUNTS, sigma, N, draws, seed)).mean(0)[0] / sigma for seed in range(2400 // draws)
    ])  # fmt: skip
    error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(0) - truth) < 4.5 * error).all()
    assert (error < 0.3 * np.abs(truth).max()).all()


def test_a_loss_that_is_linear_in_the_draws_has_no_noise():
    z = np.random.default_rng(0).normal(size=(8, 2, 3))
    slope = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    exact = (
        pair_estimates(1e8 * (z @ slope.T) + 7, 1e8 * z, 1e16 * np.ones(3)) / 1e16
    )  # so large that the ridge is nothing
    assert exact == pytest.approx(np.broadcast_to(slope, exact.shape))


def test_agrees_with_brute_force_on_a_model(tmp_path):
    sigma = 0.8
    settings = GradientSettings(draws=60, sigmas=(sigma,))
    question = asked(settings=replace(FEW, inner=1, batch_size=3))
    n = question.spending.tokens
    counts = np.array([n, 3.7, 2.4, 1.3])
    moment = moments(counts[1:], sigma, n)
    with opened(question, tmp_path) as pieces:
        losses, z = measure._smoothed(pieces, counts, settings, lambda done, total: None)
        truth = exact_gradient(pieces.deployed, counts[1:], sigma, n)
    estimates = pair_estimates(losses[0], z[0], moment) / sigma
    assert estimates.shape == (settings.draws, 3, len(counts) - 1)
    error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(0) - truth) < 4.5 * error).all()
    assert np.sqrt((error**2).mean()) < 0.3 * np.abs(truth).max()

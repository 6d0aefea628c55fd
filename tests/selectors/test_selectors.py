"""Selections without training: their order against brute force, and what does not change it."""

import numpy as np
import pytest
import torch

from gradprobe.core import Noise
from gradprobe.selectors.divprune import cosine_distances, divprune, farthest_first
from gradprobe.selectors.zoo import sensitivities, zoo


def tokens_of(b=3, n=8, d=5, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def greedy(distances, first, weights):
    """One image, written out."""
    order = [first]
    while len(order) < len(distances):
        left = [i for i in range(len(distances)) if i not in order]
        values = [weights[i] * min(distances[i][j] for j in order) for i in left]
        order.append(left[int(np.argmax(values))])
    return order


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_divprune_is_the_greedy_order_written_out(n):
    tokens = tokens_of(n=n)
    for order, x in zip(divprune(tokens).tolist(), tokens.double().numpy(), strict=True):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        distances = 1 - x @ x.T
        nearest = [min([distances[i][j] for j in range(n) if j != i], default=0) for i in range(n)]
        assert order == greedy(distances, int(np.argmax(nearest)), [1.0] * n)


def test_an_order_names_every_token_once_whatever_the_batch():
    tokens = tokens_of(b=4, n=30)
    order = divprune(tokens)
    assert (order.sort(1).values == torch.arange(30)).all()
    assert torch.equal(divprune(tokens[2:3]), order[2:3])
    turn = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(turn[divprune(tokens[:, turn])], order)
    assert torch.equal(divprune(7 * tokens), order)


def test_equal_tokens_come_last_and_the_first_of_them_first():
    tokens = torch.eye(4)[None].repeat(1, 2, 1)  # each direction twice
    order = divprune(tokens)[0].tolist()
    assert {i % 4 for i in order[:4]} == set(range(4)) and order[4:] == sorted(order[4:])
    assert divprune(torch.ones(1, 5, 3)).tolist() == [[0, 1, 2, 3, 4]]


def test_weights_of_zero_come_last():
    distances = cosine_distances(tokens_of())
    weights = torch.ones(3, 8)
    weights[:, :3] = 0
    order = farthest_first(distances, torch.full((3,), 5), weights)
    assert (order[:, 0] == 5).all() and (order[:, :5] >= 3).all()


def test_a_linear_projector_tells_nothing_so_diversity_decides():
    tokens, matrix = tokens_of(n=20), tokens_of(1, 5, 6)[0]
    order = zoo(tokens, lambda x: x @ matrix, Noise(0, range(3)))
    first = torch.zeros(3, dtype=torch.long)
    assert torch.equal(order, farthest_first(cosine_distances(tokens @ matrix), first))


def test_sensitivity_is_about_the_norm_of_the_jacobian():
    """E_u |J u|^2 = |J|_F^2 / D for unit u, and so E_u |J u| <= |J|_F / sqrt(D)."""
    tokens = 2 * tokens_of(n=40, d=12).double()
    project = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.GELU(), torch.nn.Linear(24, 10)).double()
    with torch.no_grad():
        told = sensitivities(tokens, project, Noise(0, range(3)))
    one = torch.func.vmap(torch.func.vmap(torch.func.jacrev(lambda x: project(x))))(tokens)
    norm = one.square().sum((-1, -2)).sqrt().detach() / 12**0.5
    assert np.corrcoef(told.ravel(), norm.ravel())[0, 1] > 0.9
    assert 0.8 < float((told / norm).mean()) < 1.02
    order = zoo(tokens, project, Noise(0, range(3)))
    assert torch.equal(order[:, 0], told.argmax(1))

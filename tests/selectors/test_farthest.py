"""DivPrune and ZOO-Prune: their order against brute force, exact sensitivities against the Jacobian, and memory."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from views import Projector, images

from gradprobe.core import Noise
from gradprobe.selectors import farthest
from gradprobe.selectors.divprune import DivPrune
from gradprobe.selectors.exact import jacobian_norm
from gradprobe.selectors.farthest import BLOCK, HELD, directions_of, farthest_first, most_isolated
from gradprobe.selectors.zoo import Zoo
from gradprobe.view import View


def tokens_of(b=3, n=8, d=5, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def view_of(tokens, **parts):
    return View(Noise(0, range(len(tokens))), tokens, **parts)


def order_of(selector, view):
    """Token numbers, the first chosen first."""
    return selector.scores(view).argsort(1, descending=True)


def greedy(distances, first, weights):
    """One image, written out."""
    order = [first]
    while len(order) < len(distances):
        left = [i for i in range(len(distances)) if i not in order]
        values = [weights[i] * min(distances[i][j] for j in order) for i in left]
        order.append(left[int(np.argmax(values))])
    return order


def distances_of(x):
    """All pairs of one image."""
    x = np.asarray(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 1 - x @ x.T


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_divprune_is_the_greedy_order_written_out(n):
    view = view_of(tokens_of(n=n))
    for order, x in zip(order_of(DivPrune(), view).tolist(), view.features, strict=True):
        distances = distances_of(x)
        nearest = [min([distances[i][j] for j in range(n) if j != i], default=0) for i in range(n)]
        assert order == greedy(distances, int(np.argmax(nearest)), [1.0] * n)


def test_what_is_kept_is_the_beginning_of_the_order():
    view = view_of(tokens_of(b=4, n=30))
    order = order_of(DivPrune(), view)
    for k in range(1, 31):
        assert torch.equal(DivPrune()(view, k).index, order[:, :k].sort(1).values)
    assert torch.equal(order_of(DivPrune(), view_of(7 * view.features)), order)


@pytest.mark.parametrize("n", [BLOCK - 1, BLOCK, 2 * BLOCK + 1])
def test_blocks_of_rows_find_the_most_isolated_token(n):
    directions = directions_of(tokens_of(n=n, d=3))
    distances = 1 - directions @ directions.mT + 9 * torch.eye(n)
    assert torch.equal(most_isolated(directions), distances.amin(-1).argmax(-1))


@pytest.mark.parametrize("selector", [DivPrune(), Zoo(draws=2)])
def test_no_tensor_is_as_large_as_the_matrix_of_all_pairs(selector):
    n = HELD + 1
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
            return out

    with Largest():
        selector(view_of(tokens_of(1, n, 4), projector=torch.sin), 5)
    assert largest <= BLOCK * n < n * n


def test_held_pairs_choose_what_blocks_of_rows_choose(monkeypatch):
    view = view_of(tokens_of(b=3, n=70, d=6))
    held = order_of(DivPrune(), view)
    monkeypatch.setattr(farthest, "HELD", 10)
    monkeypatch.setattr(farthest, "BLOCK", 16)
    assert torch.equal(order_of(DivPrune(), view), held)


def test_equal_tokens_come_last_and_the_first_of_them_first():
    tokens = torch.eye(4)[None].repeat(1, 2, 1)  # each direction twice
    order = order_of(DivPrune(), view_of(tokens))[0].tolist()
    assert {i % 4 for i in order[:4]} == set(range(4)) and order[4:] == sorted(order[4:])


def test_what_rounding_alone_tells_apart_is_equal():
    one = tokens_of(1, 1, 64)
    tokens = one * torch.linspace(0.1, 3, 301)[None, :, None]  # one direction, rounded 301 times
    assert order_of(DivPrune(), view_of(tokens)).tolist() == [list(range(301))]


def test_weights_of_zero_come_last():
    weights = torch.ones(3, 8)
    weights[:, :3] = 0
    order = farthest_first(directions_of(tokens_of()), torch.full((3,), 5), 8, weights)
    assert (order[:, 0] == 5).all() and (order[:, :5] >= 3).all()


@pytest.mark.parametrize("selector", [Zoo(), Zoo(draws=7, step=0.1)])
def test_zoo_is_sensitivity_times_diversity_written_out(selector):
    view = images(n=9, dtype=torch.float64).view()
    with torch.no_grad():
        orders = order_of(selector, view).tolist()
        u = view.noise.normal((selector.draws, view.features.shape[-1]), like=view.features)
        for order, x, directions in zip(orders, view.features, u, strict=True):
            s = np.zeros(len(x))
            for i, token in enumerate(x):
                for v in directions:
                    h = selector.step * v / v.norm()
                    s[i] += (view.project(token + h) - view.project(token - h)).norm() / (2 * selector.step)
            weights = (s - s.min()) / (s.max() - s.min())
            assert order == greedy(distances_of(view.project(x)), int(s.argmax()), weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_zoo_measures_a_projector_of_half_precision_in_float32(dtype):
    made = images(dtype=dtype)
    halved, whole = made.view(), made.view(given=made.tokens.float(), projector=copy.deepcopy(made.projector).float())
    with torch.no_grad():
        torch.testing.assert_close(*(Zoo().sensitivities(each) for each in (halved, whole)), rtol=0, atol=0)
    assert all(parameter.dtype == dtype for parameter in made.projector.parameters())


@pytest.mark.parametrize("project", [lambda x: x @ tokens_of(1, 5, 6)[0], torch.ones_like])
def test_a_linear_projector_tells_nothing_so_diversity_decides(project):
    tokens = tokens_of(n=20)
    order = order_of(Zoo(), view_of(tokens, projector=project))
    assert torch.equal(order, farthest_first(directions_of(project(tokens)), torch.zeros(3, dtype=torch.long), 20))


def norms_by_autograd(project, tokens):
    one = torch.func.vmap(torch.func.vmap(torch.func.jacrev(lambda x: project(x))))(tokens)
    return one.square().sum((-1, -2)).sqrt().detach()


@pytest.mark.parametrize("act", [torch.nn.GELU(), torch.nn.SiLU(), torch.nn.Identity(), torch.tanh])
def test_exact_sensitivity_is_the_norm_of_the_jacobian(act):
    first, _, second = Projector(torch.float64).layers
    tokens = images(dtype=torch.float64).tokens

    class Given:
        layers = (first, act, second)

        def __call__(self, x):
            return second(act(first(x)))

    given = Given()
    expected = norms_by_autograd(given, tokens)
    with torch.no_grad():
        torch.testing.assert_close(jacobian_norm(given, tokens), expected, rtol=1e-10, atol=0)
        first.float(), second.float()
        single = jacobian_norm(given, tokens.float())
        torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=0)


def test_exact_sensitivity_follows_weights_that_change():
    projector, tokens = Projector(torch.float64), images(dtype=torch.float64).tokens
    before = jacobian_norm(projector, tokens)
    with torch.no_grad():
        projector.layers[2].weight.mul_(3)
    torch.testing.assert_close(jacobian_norm(projector, tokens), 3 * before)
    twin = copy.deepcopy(projector)
    with torch.no_grad():
        twin.layers[0].weight.zero_()
    assert not jacobian_norm(twin, tokens).any() and jacobian_norm(projector, tokens).all()


def test_draws_come_near_the_exact_sensitivity():
    """E_u |J u|^2 = |J|_F^2 / D for unit u, and so E_u |J u| <= |J|_F / sqrt(D)."""
    view = images(n=40, dtype=torch.float64).view()
    with torch.no_grad():
        drawn, exact = Zoo(draws=512).sensitivities(view), Zoo(exact=True).sensitivities(view)
    torch.testing.assert_close(exact, norms_by_autograd(view.projector, view.features) / view.features.shape[-1] ** 0.5)
    assert np.corrcoef(drawn.ravel(), exact.ravel())[0, 1] > 0.97
    assert 0.85 < float((drawn / exact).mean()) < 1.01

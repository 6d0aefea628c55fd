"""Directions: the norms and independence that the peers get wrong, and PCA against numpy's SVD."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.landscapes.directions import (
    along,
    checkpoint_directions,
    cosine,
    filter_normalized,
    pca_directions,
    select,
)
from gradprobe.landscapes.planes import axis

SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "linear.weight": (5, 7), "norm.weight": (7,), "scale": ()}


def theta(seed=0, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def filters(p):
    return p.double().flatten(1).norm(dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_each_filter_moves_by_its_own_norm(dtype):
    params = theta(dtype=dtype)
    d = filter_normalized(params, 3)
    bound = 4 * torch.finfo(dtype).eps  # the rounding of the cast
    for name in ("conv.weight", "linear.weight"):
        assert (filters(d[name]) / filters(params[name]) - 1).abs().max() < bound
        assert d[name].dtype == dtype and d[name].shape == params[name].shape
    for name in ("conv.bias", "norm.weight", "scale"):
        assert d[name].shape == params[name].shape and not d[name].any()


@settings(max_examples=40)
@given(
    shape=some.lists(some.integers(1, 6), min_size=2, max_size=4),
    scale=some.sampled_from([1e-30, 1e-6, 1.0, 1e25]),
    zero=some.booleans(),
    seed=some.integers(0, 2**63),
)
def test_norm_ratio_is_one_or_the_filter_is_zero(shape, scale, zero, seed):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale
    if zero:
        w[0] = 0
    d = filter_normalized({"w": w}, seed)["w"]
    assert d.isfinite().all()
    ours, own = filters(d), filters(w)
    assert (ours[own == 0] == 0).all()
    assert torch.allclose(ours[own > 0] / own[own > 0], torch.ones(()).double(), rtol=1e-6)


def test_one_d_policies():
    params = theta() | {"dead": torch.zeros(6), "empty": torch.zeros(0)}
    vector, element = (filter_normalized(params, 1, one_d=kind) for kind in ("vector", "element"))
    for name in ("conv.bias", "norm.weight", "scale"):
        assert float(vector[name].norm() / params[name].norm()) == pytest.approx(1, rel=1e-6)
        assert torch.allclose(element[name].abs(), params[name].abs(), rtol=1e-6)
    assert not torch.allclose(vector["norm.weight"].abs(), params["norm.weight"].abs(), rtol=0.1)
    for d in (vector, element):
        assert not d["dead"].any() and d["empty"].shape == (0,)
        assert torch.equal(d["linear.weight"], filter_normalized(params, 1)["linear.weight"])
    many = filter_normalized({"b": torch.ones(10_000)}, 0, one_d="element")["b"]
    assert abs(float(many.mean())) < 0.05  # both signs: the peer's is +|theta_i|, always


def test_a_draw_of_exactly_zero_moves_nothing():
    params, seed = {"b": torch.ones(100_000)}, 113  # among the numbers of this seed one is 0: 1 in 2**23 is
    d = filter_normalized(params, seed, one_d="element")["b"]
    assert d.isfinite().all() and sorted({float(x) for x in d.unique()}) == [-1.0, 0.0, 1.0]


def test_numbers_belong_to_the_name_and_the_seed():
    params = theta()
    d = filter_normalized(params, 5, one_d="vector")
    fewer = filter_normalized({name: params[name] for name in reversed(SHAPES) if name != "conv.weight"}, 5, "vector")
    assert all(torch.equal(fewer[name], d[name]) for name in fewer)
    again, other = filter_normalized(params, 5, "vector"), filter_normalized(params, 6, "vector")
    assert all(torch.equal(again[name], d[name]) for name in d)
    assert not any(torch.equal(other[name], d[name]) for name in d if params[name].numel() > 1)
    twins = filter_normalized({"a": params["linear.weight"], "b": params["linear.weight"]}, 5)
    assert abs(cosine({"w": twins["a"]}, {"w": twins["b"]})) < 0.9
    wide = filter_normalized({name: p.double() for name, p in params.items()}, 5, "vector")
    assert all(torch.equal(wide[name].float(), d[name]) for name in d)  # the same numbers, cast


def test_directions_are_gaussian_and_independent_over_many_seeds():
    params = {"w": torch.randn(16, 24, generator=torch.Generator().manual_seed(0)), "v": torch.randn(1, 16) * 0 + 1.0}
    norms = {name: filters(p).square() for name, p in params.items()}
    total = sum(float(n.sum()) for n in norms.values())
    expected = math.sqrt(sum(float(n.square().sum()) / params[name][0].numel() for name, n in norms.items())) / total
    seeds = 400
    cosines = np.array(
        [cosine(filter_normalized(params, 2 * s), filter_normalized(params, 2 * s + 1)) for s in range(seeds)]
    )
    assert expected == pytest.approx(1 / math.sqrt(16 * 25), rel=0.1)  # 1 / sqrt(P): filters of about one norm
    assert np.sqrt((cosines**2).mean()) == pytest.approx(expected, rel=4 / math.sqrt(2 * seeds))
    assert abs(cosines.mean()) < 4 * expected / math.sqrt(seeds)
    long = filter_normalized({"w": torch.ones(1, 40_000)}, 0)["w"].double()
    assert abs(float(long.mean())) < 0.03  # uniform numbers would give 0.87
    assert float((long**4).mean() / (long**2).mean() ** 2) == pytest.approx(3, abs=0.15)


def test_global_generators_and_parameters_stay():
    params = {name: nn.Parameter(p) for name, p in theta().items()}
    before = {name: p.detach().clone() for name, p in params.items()}
    state = torch.get_rng_state()
    d = filter_normalized(params, 0, "element")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(params[name], before[name]) and params[name].requires_grad for name in params)
    assert not any(x.requires_grad for x in d.values())


def test_counters_stay_out():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    state = model.state_dict()
    d = filter_normalized(state, 0)
    assert set(state) - set(d) == {"1.num_batches_tracked"}
    assert along(state, [d], [0.5])["1.num_batches_tracked"] is not None


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda p: filter_normalized(p, 0, one_d="zeros"), "did you mean 'zero'"),
        (lambda p: filter_normalized(p, -1), "seed=-1"),
        (lambda p: filter_normalized({}, 0), "named_parameters"),
        (lambda p: filter_normalized({"n": torch.tensor(3)}, 0), "named_parameters"),
        (lambda p: filter_normalized(nn.Linear(2, 2), 0), "named_parameters"),
        (lambda p: select(p, "head.*"), r"'head.\*'.*conv.weight, conv.bias"),
        (lambda p: select({f"blocks.{i}": p["scale"] for i in range(150)}, "x"), "blocks.11 and 138 more"),
        (lambda p: along(p, [{"conv.wight": p["scale"]}], [1]), "did you mean 'conv.weight'"),
        (lambda p: along(p, [{"scale": torch.ones(2)}], [1]), r"'scale' is \(2,\) in d1 and \(\) in theta"),
        (lambda p: along(p, [p], [1, 2]), "2 coordinates for 1"),
        (lambda p: along(p | {"n": torch.tensor(1)}, [{"n": torch.tensor(1)}], [1]), "int64"),
        (lambda p: along(p, [{"scale": torch.ones((), device="meta")}], [1]), "meta"),
        (lambda p: checkpoint_directions(p, p | {"conv.bias": torch.ones(9)}), r"'conv.bias' is \(9,\) in b"),
        (lambda p: checkpoint_directions(p, p, select(p, "conv.*")), "c has no 'linear.weight', which a has"),
        (lambda p: checkpoint_directions(p, p | {"head": torch.ones(1)}), "a has no 'head', which b has"),
        (lambda p: pca_directions([p, p]), "give at least 3"),
        (lambda p: pca_directions([p, select(p, "conv.*"), p]), "checkpoint 1 has no 'linear.weight'"),
        (lambda p: cosine(p, {"scale": torch.ones(3)}), "'scale'"),
    ],
)
def test_wrong_input_is_one_clear_line(ask, message):
    with pytest.raises(UsageError, match=message) as error:
        ask(theta())
    assert "\n" not in str(error.value)


def test_select_matches_whole_names():
    params = theta()
    assert list(select(params, "*.weight")) == ["conv.weight", "linear.weight", "norm.weight"]
    assert list(select(params, "conv.*")) == ["conv.weight", "conv.bias"]
    assert list(select(params, "scale")) == ["scale"]
    with pytest.raises(UsageError):
        select(params, "conv")


def test_cosine_equals_the_flat_one():
    d1, d2 = theta(1), theta(2)
    x, y = (np.concatenate([d[name].double().numpy().ravel() for name in SHAPES]) for d in (d1, d2))
    assert cosine(d1, d2) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-14)
    assert cosine(d1, {name: -3 * d for name, d in d1.items()}) == pytest.approx(-1, abs=1e-7)
    assert math.isnan(cosine(d1, {"scale": torch.zeros(())}))


def test_along_is_the_formula_and_origin_is_theta_itself():
    params, d1, d2 = theta(0), theta(1), theta(2)
    del d2["scale"]
    point = along(params, [d1, d2], [0.3, -2.0])
    for name, p in params.items():
        other = d2.get(name, torch.zeros(())).double()
        twin = p.double() + 0.3 * d1[name].double() - 2.0 * other
        assert torch.allclose(point[name].double(), twin, rtol=1e-6, atol=1e-6) and point[name].dtype == p.dtype
    assert all(p.data_ptr() == params[name].data_ptr() for name, p in along(params, [d1, d2], [0.0, 0.0]).items())
    low = {"w": torch.ones(1, dtype=torch.bfloat16)}
    half = {"w": torch.full((1,), 2.0**-9, dtype=torch.bfloat16)}  # half a unit in the last place: two of them are one
    assert float(along(low, [half, half], [1.5, 1.5])["w"]) == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoints_are_reached_bit_for_bit(dtype):
    a, b, c = (theta(seed, dtype) for seed in (0, 1, 2))
    to_b, to_c = checkpoint_directions(a, b, c)
    for coordinates, checkpoint in (([1.0, 0.0], b), ([0.0, 1.0], c), ([0.0, 0.0], a)):
        point = along(a, [to_b, to_c], coordinates)
        assert all(torch.equal(point[name], checkpoint[name]) for name in a)


def trajectory(steps, dtype=torch.float64, tail=0.1):
    """A bent path with smaller and smaller excursions in further directions, larger than one stretch of a parameter."""
    shapes = {"big": (3, 30_000), "bias": (5,), "scale": ()}
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, steps)[:, None]
    factors = np.concatenate([time, time**2, tail * rng.normal(size=(steps, 4))], 1)
    axes = {name: rng.normal(size=(6, *shape)) for name, shape in shapes.items()}
    return [{name: torch.tensor(np.tensordot(f, axes[name], 1), dtype=dtype) for name in shapes} for f in factors]


@pytest.mark.parametrize("steps, tail", [(3, 0.1), (9, 0.1), (9, 1e-3), (7, 0.0)])
def test_pca_equals_numpys_svd(steps, tail):
    checkpoints = trajectory(steps, tail=tail)
    flat = np.array([np.concatenate([p.numpy().ravel() for p in c.values()]) for c in checkpoints])
    offsets = flat - flat[-1]
    _, s, vt = np.linalg.svd(offsets, full_matrices=False)
    pca = pca_directions(checkpoints)
    d = np.array([np.concatenate([p.numpy().ravel() for p in each.values()]) for each in pca.directions])
    twin = offsets @ vt[:2].T
    signs = np.sign(np.take_along_axis(twin, np.abs(twin).argmax(0)[None], 0))
    scale = np.linalg.norm(offsets, axis=1).max()
    assert np.abs(d @ d.T - np.eye(2)).max() < 1e-13
    assert np.abs(d - vt[:2] * signs.T).max() < 1e-9
    assert np.abs(pca.coordinates - twin * signs).max() < 1e-9 * scale
    assert np.allclose(pca.explained, s[:2] ** 2 / (s**2).sum(), atol=1e-12)
    off = np.linalg.norm(offsets - twin @ vt[:2], axis=1)
    distance = np.linalg.norm(offsets, axis=1)
    assert np.abs(pca.residual[:-1] - (off / distance.clip(1e-300))[:-1]).max() < 1e-12
    assert (pca.coordinates[-1] == 0).all() and pca.residual[-1] == 0
    assert (np.abs(pca.coordinates).argmax(0) == pca.coordinates.argmax(0)).all()


def test_pca_of_a_nearly_straight_path_is_orthonormal_all_the_same():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(50_000, generator=generator, dtype=torch.float64) for _ in range(2))
    pca = pca_directions([{"w": t * u + 2e-6 * math.sin(9 * t) * v} for t in np.linspace(0, 1, 8)])
    first, second = (d["w"] for d in pca.directions)
    assert abs(float(first @ second)) < 1e-14
    assert abs(float(second.norm()) - 1) < 1e-14 and 1e-13 < pca.explained[1] < 1e-10


def test_pca_of_single_precision_is_drawn_in_it():
    pca, twin = pca_directions(trajectory(9, torch.float32)), pca_directions(trajectory(9))
    assert all(d.dtype == torch.float32 for each in pca.directions for d in each.values())
    assert abs(cosine(*pca.directions)) < 1e-6
    assert np.allclose(pca.coordinates, twin.coordinates, rtol=1e-5, atol=1e-4)
    assert np.allclose(pca.residual, twin.residual, atol=1e-6)
    half = pca_directions(trajectory(9, torch.bfloat16))
    assert abs(cosine(*half.directions)) < 1e-6 and all(d.dtype == torch.float32 for d in half.directions[0].values())
    assert all(p.dtype == torch.bfloat16 for p in along(half.origin, half.directions, half.coordinates[0]).values())


def test_pca_plane_comes_back_to_the_checkpoints_that_lie_in_it():
    checkpoints = trajectory(5, tail=0.0)
    pca = pca_directions(checkpoints)
    assert pca.residual.max() < 1e-12 and pca.explained.sum() == pytest.approx(1)
    for checkpoint, coordinates in zip(checkpoints, pca.coordinates, strict=True):
        point = along(pca.origin, pca.directions, coordinates)
        assert all(torch.allclose(point[name], p, atol=1e-12) for name, p in checkpoint.items())


def test_pca_refuses_what_spans_no_plane():
    a, b, *_, z = trajectory(5)
    middle = {name: (p + z[name]) / 2 for name, p in a.items()}
    for checkpoints in ([a, middle, z], [z, z, z]):
        with pytest.raises(GradprobeError, match="line or are all the same"):
            pca_directions(checkpoints)
    with pytest.raises(GradprobeError, match=r"checkpoints \[1\]"):
        pca_directions([a, b | {"bias": torch.full((5,), float("nan"))}, z])
    with pytest.raises(GradprobeError, match=r"checkpoints \[2\]"):
        pca_directions([a, b, z | {"scale": torch.tensor(float("inf"))}])


def test_numbers_of_numpy_lay_a_grid_and_seed_a_direction():
    assert np.array_equal(axis(np.float32(0.5), np.int64(5)), axis(0.5, 5))
    theta = {"w": torch.ones(2, 3)}
    assert torch.equal(filter_normalized(theta, np.int64(3))["w"], filter_normalized(theta, 3)["w"])
    for reach, points, words in ((0.3, "5", "a grid of '5' points"), ("0.3", 5, "reach='0.3' is no range")):
        with pytest.raises(UsageError, match=words):
            axis(reach, points)

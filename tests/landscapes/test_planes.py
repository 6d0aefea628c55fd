"""Planes and lines, tested for the faults of the peers."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.landscapes.directions import along, checkpoint_directions, filter_normalized, pca_directions
from gradprobe.landscapes.planes import axis, from_metric, line, losses_at, plane

SHAPES = {"w": (3, 4), "b": (3,), "s": ()}
P = 16


def tensors(seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def flat(params):
    return torch.cat([p.reshape(-1) for p in params.values()])


@pytest.fixture
def bowl():
    """An indefinite quadratic with a linear term: no symmetry hides a swap of axes or signs."""
    h = torch.randn(P, P, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    g = torch.linspace(-1, 2, P, dtype=torch.float64)

    def loss(params):
        x = flat(params)
        return x @ h @ x + g @ x - 50

    return loss


class Net(nn.Module):
    """Something of everything: convolution, norm with buffers, attention, a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.norm.weight.requires_grad_(False)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.scale * mixed.mean(1))


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, y = Net(), torch.randn(6, 2, 5, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    F.cross_entropy(model(x), y).backward()  # running statistics and gradients that could be lost
    model.eval()
    return model, lambda params: F.cross_entropy(functional_call(model, params, (x,)), y), x, y


def snapshot(model):
    tensors = model.state_dict(keep_vars=True)
    everything = [(name, p.detach().numpy().tobytes(), p.data_ptr(), p.requires_grad) for name, p in tensors.items()]
    grads = [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
    return everything, grads, [m.training for m in model.modules()]


def generators():
    return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize(
    "a, b",
    [
        (axis(1.0, 6), axis(1.0, 6)),  # the peer's shear showed at 6 steps
        (axis(0.3, 5), axis(2.0, 8)),
        ([-1.0, 0.0, 0.5, 4.0], [0.0, 3.0]),
        ([0.7, -0.2], [1e-3, 5.0, -1.0]),
    ],
)
def test_plane_of_a_quadratic_is_its_closed_form_in_every_cell(bowl, a, b):
    params, d1, d2 = (tensors(seed) for seed in (0, 1, 2))
    losses = plane(bowl, params, d1, d2, a, b)
    assert losses.shape == (len(a), len(b)) and losses.dtype == np.float64
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            point = {name: p + x * d1[name] + y * d2[name] for name, p in params.items()}
            assert losses[i, j] == pytest.approx(float(bowl(point)), rel=1e-12)
    bends = np.diff(plane(bowl, params, d1, d2, axis(1.0, 6), axis(1.0, 6)), 2, axis=0)
    assert np.abs(bends - bends.flat[0]).max() < 1e-11  # one curvature in all rows


def test_line_is_a_row_of_the_plane(bowl):
    params, d1, d2 = (tensors(seed) for seed in (0, 1, 2))
    whole = plane(bowl, params, d1, d2, axis(1, 5), axis(2, 7))
    assert (line(bowl, params, d1, axis(1, 5)) == whole[:, 3]).all()
    assert (line(bowl, params, d2, axis(2, 7)) == whole[2]).all()


def test_cells_do_not_depend_on_the_others(bowl):
    params, d1, d2 = (tensors(seed) for seed in (0, 1, 2))
    a, b = axis(1, 7), axis(2, 5)
    whole = plane(bowl, params, d1, d2, a, b)
    assert (plane(bowl, params, d1, d2, a[::-1], b)[::-1] == whole).all()
    assert (plane(bowl, params, d1, d2, a[2:4], b[[4, 0]]) == whole[2:4][:, [4, 0]]).all()
    assert (losses_at(bowl, params, [d1, d2], [[a[5], b[1]]]) == whole[5, 1]).all()
    assert (plane(bowl, params, d1, d2, a, b) == whole).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_centre_is_the_plain_loss_bit_for_bit(net, dtype):
    model, _, x, y = net
    model.to(dtype)

    def loss(params):
        return F.cross_entropy(functional_call(model, params, (x.to(dtype),)), y)

    params = dict(model.named_parameters())
    losses = plane(loss, params, filter_normalized(params, 0), filter_normalized(params, 1), axis(0.3, 3), axis(0.3, 5))
    with torch.no_grad():
        plain = float(loss(params))
        assert losses[1, 2] == plain == float(F.cross_entropy(model(x.to(dtype)), y))
    assert np.isfinite(losses).all() and len(np.unique(losses)) > 3  # bfloat16 tells no more apart


def test_centre_sees_theta_itself_not_theta_plus_nothing():
    params = {"x": torch.tensor([-0.0, 1.0])}
    wild = {"x": torch.tensor([math.inf, math.nan])}
    losses = plane(lambda p: (1 / p["x"]).sum(), params, wild, wild, axis(1, 3), axis(1, 3))
    assert losses[1, 1] == -math.inf and np.isnan(losses[0]).all()


@pytest.mark.parametrize("points", [3, 31, 75, 99, 135, 201])
@pytest.mark.parametrize("reach", [0.1, 0.3, 0.7, 1.0])
def test_axis_has_its_centre_and_is_symmetric(points, reach):
    grid = axis(reach, points)
    assert grid[points // 2] == 0 and grid[0] == -reach and grid[-1] == reach
    assert (grid == -grid[::-1]).all() and np.allclose(np.diff(grid), 2 * reach / (points - 1), rtol=1e-12)


def test_nan_infinite_and_negative_losses_stay_what_they_are():
    params, d = {"x": torch.tensor(0.0)}, {"x": torch.tensor(1.0)}
    losses = line(lambda p: p["x"].log() / (p["x"] != 2), params, d, [-1.0, 0.0, 0.5, 1.0, 2.0])
    assert np.isnan(losses[0]) and losses[2] == pytest.approx(math.log(0.5))
    assert losses[[1, 3, 4]].tolist() == [-math.inf, 0, math.inf]
    assert (line(lambda p: p["x"] * math.nan, params, d, [0.0, 1.0]).view(np.int64) != 0).all()
    assert (line(lambda p: -1 - p["x"].square(), params, d, [0.0, 1.0]) == [-1, -2]).all()
    assert line(lambda p: p["x"], params | {"broken": torch.tensor(math.nan)}, d, [0.0, 1.0]).tolist() == [0, 1]


def test_model_generators_and_flags_are_as_found(net):
    model, loss, *_ = net
    params = dict(model.named_parameters())
    d1, d2 = filter_normalized(params, 0, "vector"), filter_normalized(params, 1, "element")
    before, states = snapshot(model), generators()
    graphs = []
    plane(lambda p: graphs.append(torch.is_grad_enabled()) or loss(p), params, d1, d2, axis(1, 3), axis(1, 3))
    assert not any(graphs) and len(graphs) == 2 + 8  # the centre twice, and the cells around it
    assert snapshot(model) == before and generators() == states and torch.is_grad_enabled()


def test_model_and_generators_are_as_found_after_an_exception(net):
    model, loss, *_ = net
    params = dict(model.named_parameters())
    d = filter_normalized(params, 0)
    before, states, calls = snapshot(model), generators(), []

    def breaks(point):
        calls.append(float(loss(point)))
        torch.manual_seed(len(calls)), np.random.seed(1), random.seed(1)  # noqa: NPY002
        if len(calls) == 5:
            raise KeyError("mine")
        return calls[-1]

    with pytest.raises(KeyError, match="mine"):
        line(breaks, params, d, axis(1, 9))
    assert len(calls) == 5 and snapshot(model) == before and generators() == states and torch.is_grad_enabled()


@pytest.mark.parametrize("moved", [True, False])
def test_a_loss_that_writes_into_theta_is_told_and_undone(net, moved):
    model, loss, *_ = net
    params = dict(model.named_parameters())
    d = filter_normalized(params if moved else {"head.weight": params["head.weight"]}, 0)
    before = snapshot(model)

    def writes(point):
        point["conv.bias"].add_(1)
        return loss(point)

    with pytest.raises(GradprobeError, match=r"writes into its parameter 'conv\.bias'"):
        line(writes, params, d, axis(1, 3))
    assert snapshot(model) == before


def test_a_loss_that_writes_only_later_is_told_and_undone():
    params, calls = {"x": torch.tensor(0.0), "still": torch.tensor(-0.0)}, []

    def writes(point):
        calls.append(1)
        if len(calls) == 3:
            point["still"].abs_()  # -0 to 0: equal numbers, other bits
        return point["x"]

    with pytest.raises(GradprobeError, match="'still'"):
        line(writes, params, {"x": torch.tensor(1.0)}, axis(1, 4))
    assert math.copysign(1, params["still"]) == -1


def test_running_statistics_in_the_dict_are_guarded(net):
    model, loss, *_ = net
    model.train()
    before, params = snapshot(model), dict(model.named_parameters()) | dict(model.named_buffers())
    with pytest.raises(GradprobeError, match=r"norm\.\w+.*evaluation mode"):
        line(loss, params, filter_normalized(params, 0), axis(1, 3))
    assert snapshot(model) == before


def test_writing_past_torchs_version_counter_is_seen_too():
    params = {"x": torch.ones(4, 3), "mean": torch.full((3,), 0.5), "var": torch.full((3,), math.nan)}
    mean, version = params["mean"], params["x"]._version

    def loss(point):
        return F.batch_norm(point["x"], point["mean"], point["var"], training=True).sum()

    with pytest.raises(GradprobeError, match="'mean'"):
        line(loss, params, {"x": torch.ones(4, 3)}, axis(1, 3))
    assert params["mean"] is mean and (mean == 0.5).all() and params["var"].isnan().all()
    assert params["x"]._version == version


def test_gradients_of_the_model_do_not_grow(net):
    model, loss, *_ = net
    params = dict(model.named_parameters())
    before = snapshot(model)

    def slope(point):
        with torch.enable_grad():
            leaves = {name: p.clone().requires_grad_() for name, p in point.items()}
            loss(leaves).backward()
        return sum(p.grad.square().sum() for p in leaves.values()).sqrt()

    assert (line(slope, params, filter_normalized(params, 0), axis(0.1, 3)) > 0).all()
    assert snapshot(model) == before


def noisy(params):
    return params["x"] + torch.randn(())


def drop(params):
    return F.dropout(params["x"].expand(100), 0.5).sum()


def numpys(params):
    return params["x"] + np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("loss", [noisy, drop, numpys, lambda p: float(p["x"]) + random.random()])
def test_a_loss_with_noise_of_its_own_is_found_out(loss):
    states = generators()
    with pytest.raises(GradprobeError, match="fix its noise"):
        line(loss, {"x": torch.tensor(1.0)}, {"x": torch.tensor(1.0)}, [1.0, 2.0])  # theta is not even on the grid
    assert generators() == states


def test_noise_that_is_fixed_is_common_to_all_points():
    def loss(params):
        torch.manual_seed(3)
        return params["x"] + torch.randn(())

    losses = line(loss, {"x": torch.tensor(1.0).double()}, {"x": torch.tensor(1.0)}, axis(1, 5))
    assert np.allclose(np.diff(losses), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "value, message",
    [
        (lambda p: p["x"].expand(4), r"torch.float32 tensor of shape \(4,\).*mean"),
        (lambda p: p["x"].expand(1), r"shape \(1,\)"),
        (lambda p: p["x"] * 1j, "complex64"),
        (lambda p: None, "NoneType"),
        (lambda p: (1.0, 2.0), "tuple"),
        (lambda p: "0.3", "str"),
        (lambda p: 1j, "complex"),
    ],
)
def test_a_loss_that_is_no_number_is_told(value, message):
    with pytest.raises(GradprobeError, match=message) as error:
        line(value, {"x": torch.tensor(1.0)}, {"x": torch.tensor(1.0)}, axis(1, 3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, int, lambda v: v.long(), lambda v: v.bfloat16()])
def test_any_real_number_is_a_loss(kind):
    losses = line(lambda p: kind(p["x"]), {"x": torch.tensor(1.0)}, {"x": torch.tensor(1.0)}, [1.0, 2.0])
    assert losses.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda f, p, d: line(f, p, d, []), "a has 0 points"),
        (lambda f, p, d: line(f, p, d, [0.5]), "a has 1 point;"),
        (lambda f, p, d: plane(f, p, d, d, axis(1, 3), [1.0]), "b has 1 point;"),
        (lambda f, p, d: line(f, p, d, 0.3), r"shape \(\)"),
        (lambda f, p, d: line(f, p, d, [[0.0, 1.0]]), r"shape \(1, 2\)"),
        (lambda f, p, d: line(f, p, d, [0.0, math.inf]), "a holds inf"),
        (lambda f, p, d: plane(f, p, d, d, [0.0, 1.0], [math.nan, 1.0]), "b holds nan"),
        (lambda f, p, d: line(f, p, d, ["one", "two"]), "not a number"),
        (lambda f, p, d: losses_at(f, p, [d, d], [[1.0]]), r"shape \(1, 1\).*2 directions"),
        (lambda f, p, d: line(f, p, {"y": d["x"]}, [0.0, 1.0]), "'y'"),
        (lambda f, p, d: line(f, p, {"x": torch.ones(3)}, [0.0, 1.0]), "'x'"),
        (lambda f, p, d: line(f, nn.Linear(1, 1), d, [0.0, 1.0]), "named_parameters"),
        (lambda f, p, d: axis(0.3, 1), "at least 2"),
        (lambda f, p, d: axis(math.inf, 3), "reach=inf"),
        (lambda f, p, d: axis(0.0, 3), "reach=0"),
    ],
)
def test_wrong_grids_and_directions_cost_no_evaluation(ask, message):
    def never(params):
        raise AssertionError("evaluated")

    with pytest.raises(UsageError, match=message) as error:
        ask(never, {"x": torch.tensor(1.0)}, {"x": torch.tensor(1.0)})
    assert "\n" not in str(error.value)


def test_checkpoints_are_met_at_their_corners(net):
    model, loss, *_ = net
    a = dict(model.named_parameters())
    b, c = ({name: p.detach() + 0.1 * (i + 1) for name, p in a.items()} for i in range(2))
    losses = plane(loss, a, *checkpoint_directions(a, b, c), [0.0, 1.0], [0.0, 1.0])
    with torch.no_grad():
        assert [losses[0, 0], losses[1, 0], losses[0, 1]] == [float(loss(each)) for each in (a, b, c)]


def test_losses_of_a_trajectory_in_its_own_plane(bowl):
    corner, u, v = (tensors(seed) for seed in (0, 1, 2))
    checkpoints = [along(corner, [u, v], [t, t * t]) for t in (2.0, 1.0, 0.5, 0.0)]
    pca = pca_directions(checkpoints)
    losses = losses_at(bowl, pca.origin, pca.directions, pca.coordinates)
    assert losses == pytest.approx([float(bowl(each)) for each in checkpoints], rel=1e-11)


def test_progress_counts_every_point_once(bowl):
    params, calls = tensors(0), []
    plane(bowl, params, tensors(1), tensors(2), axis(1, 3), axis(1, 5), progress=lambda *each: calls.append(each))
    assert calls == [("loss", i, 15) for i in range(1, 16)]


class PackageLoss:
    """The call of ``loss_landscapes.metrics.Loss`` 3.0.6."""

    def __init__(self, loss_fn, inputs, target):
        self.loss_fn, self.inputs, self.target = loss_fn, inputs, target

    def __call__(self, model_wrapper) -> float:
        return self.loss_fn(model_wrapper.forward(self.inputs), self.target).item()


@pytest.mark.parametrize("training", [False, True])
def test_a_metric_of_the_package_is_a_loss(net, training):
    model, loss, x, y = net
    model.train(training)
    params = dict(model.named_parameters())
    d, before = filter_normalized(params, 0), snapshot(model)
    losses = line(from_metric(PackageLoss(F.cross_entropy, x, y), model), params, d, axis(1, 5))
    assert snapshot(model) == before  # running statistics too
    assert (losses == line(loss, params, d, axis(1, 5))).all()


def test_a_metric_that_wants_to_change_the_model_is_told(net):
    model, *_ = net
    params = dict(model.named_parameters())
    with pytest.raises(UsageError, match=r"'get_module_parameters'.*forward"):
        line(from_metric(lambda wrapper: wrapper.get_module_parameters(), model), params, params, axis(1, 3))


def test_a_metric_of_the_package_itself_is_a_loss():
    """The package loss-landscapes, where a user has it, through its own interface."""
    metrics = pytest.importorskip("loss_landscapes.metrics", reason='no peer; type: pip install "gradprobe[peers]"')
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    params = {name: p.detach() for name, p in model.named_parameters()}
    d1, d2 = (filter_normalized(params, seed) for seed in (0, 1))
    losses = plane(from_metric(metrics.Loss(F.cross_entropy, x, y), model), params, d1, d2, axis(1, 3), axis(1, 5))
    wanted = plane(
        lambda p: F.cross_entropy(functional_call(model, p, (x,)), y), params, d1, d2, axis(1, 3), axis(1, 5)
    )
    assert losses.tolist() == wanted.tolist()

"""Complex and unusual parameters move with their directions, or are refused by name; none is left out in silence."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy import Toy

import gradprobe as gp
from gradprobe.errors import UsageError
from gradprobe.landscapes.directions import along, checkpoint_directions, cosine, filter_normalized, pca_directions
from gradprobe.probes.coherence.measure import coherence
from gradprobe.probes.curvature.measure import curvature
from gradprobe.probes.fidelity.reference import reference
from gradprobe.probes.landscape.measure import landscape

COMPLEX = [torch.complex64, torch.complex128]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def theta(dtype, seed=0):
    rng = torch.Generator().manual_seed(seed)
    real = dtype if not dtype.is_complex else torch.empty(0, dtype=dtype).real.dtype
    numbers = {"w": torch.randn(3, 4, 2, generator=rng), "b": torch.randn(3, 2, generator=rng), "s": torch.randn(2)}
    wide = {name: x if dtype.is_complex else x[..., 0] for name, x in numbers.items()}
    return {
        n: torch.view_as_complex(x.to(real).contiguous()) if dtype.is_complex else x.to(real) for n, x in wide.items()
    }


def reals(params):
    """The same parameters as a model with real and imaginary parts side by side has them."""
    return {name: torch.view_as_real(p) for name, p in params.items()}


@pytest.mark.parametrize("dtype", COMPLEX + FLOATS)
@pytest.mark.parametrize("one_d", ["zero", "vector", "element"])
def test_every_filter_moves_by_its_own_norm(dtype, one_d):
    params = theta(dtype)
    d = filter_normalized(params, 0, one_d)
    assert {n: (x.dtype, x.shape) for n, x in d.items()} == {n: (x.dtype, x.shape) for n, x in params.items()}
    size = {name: x.abs().double() for name, x in d.items()}
    own = {name: x.abs().double() for name, x in params.items()}
    near = {"rtol": 0.02 if torch.finfo(dtype).bits < 32 else 1e-5, "atol": 0}
    torch.testing.assert_close(size["w"].norm(dim=1), own["w"].norm(dim=1), **near)
    if one_d == "zero":
        assert not size["b"].any() and not size["s"].any()
    else:
        torch.testing.assert_close(size["b"].norm(), own["b"].norm(), **near)
        torch.testing.assert_close(size["s"], own["s"], **near)
    if one_d == "element":
        torch.testing.assert_close(size["b"], own["b"], **near)


@pytest.mark.parametrize("dtype", COMPLEX)
def test_real_and_imaginary_parts_both_move_and_differently(dtype):
    d = filter_normalized(theta(dtype), 0, "element")
    for x in d.values():
        assert x.real.all() and x.imag.all() and not torch.equal(x.real, x.imag)
    moved = along(theta(dtype), [d], [0.5])
    assert torch.equal(moved["w"], theta(dtype)["w"] + 0.5 * d["w"])


@pytest.mark.parametrize("dtype", COMPLEX)
def test_pca_cosine_and_checkpoints_see_both_parts(dtype):
    trajectory = [theta(dtype, seed) for seed in range(5)]
    pca, wanted = pca_directions(trajectory), pca_directions([reals(p) for p in trajectory])
    np.testing.assert_allclose(pca.coordinates, wanted.coordinates, rtol=1e-6)
    np.testing.assert_allclose(pca.residual, wanted.residual, rtol=1e-5, atol=1e-7)
    for one, other in zip(pca.directions, wanted.directions, strict=True):
        assert one["w"].dtype == dtype
        torch.testing.assert_close(torch.view_as_real(one["w"]), other["w"])
    a, b = trajectory[:2]
    assert cosine(a, b) == pytest.approx(cosine(reals(a), reals(b)), rel=1e-12)
    assert cosine({"w": a["w"]}, {"w": 1j * a["w"]}) == pytest.approx(0, abs=1e-7)
    (d,) = checkpoint_directions(a, b)
    torch.testing.assert_close(along(a, [d], [1.0])["w"], b["w"], rtol=0, atol=0)


class Fourier(nn.Module):
    """A layer with complex weights, as spectral models have them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (self.weight @ torch.fft.fft(x.float()).T).abs().T + self.bias


def test_a_plane_of_a_complex_model_is_that_of_its_real_twin():
    model, x, y = Fourier(), torch.randn(8, 5), torch.arange(8) % 3
    params = dict(model.named_parameters())
    d = [filter_normalized(params, seed) for seed in (0, 1)]

    def twin(p):
        return F.cross_entropy(gp.functional_call(model, {**p, "weight": torch.view_as_complex(p["weight"])}, x), y)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = gp.plane(
            lambda p: F.cross_entropy(gp.functional_call(model, p, x), y), params, *d, gp.axis(1, 3), gp.axis(1, 3)
        )
        parts = lambda p: {n: torch.view_as_real(x) if x.is_complex() else x for n, x in p.items()}  # noqa: E731
        wanted = gp.plane(twin, parts(params), *map(parts, d), gp.axis(1, 3), gp.axis(1, 3))
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert np.unique(losses).size == 9


UNMOVABLE = {
    "float8_e4m3fn": lambda: torch.ones(2, 2).to(torch.float8_e4m3fn),
    "sparse_coo": lambda: torch.eye(3).to_sparse(),
    "sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta device": lambda: torch.ones(2, 2, device="meta"),
    "uint8, a parameter of whole numbers": lambda: nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False),
    "qint8": lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("words", UNMOVABLE)
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*quantize", "ignore:Sparse invariant")
def test_what_cannot_move_is_refused_by_name(words):
    params, d = {"fine": torch.ones(2, 2), "odd.weight": UNMOVABLE[words]()}, {"fine": torch.ones(2, 2)}
    for call in (
        lambda: filter_normalized(params, 0),
        lambda: along(params, [d], [1.0]),
        lambda: gp.line(lambda p: p["fine"].sum(), params, d, [0.0, 1.0]),
        lambda: checkpoint_directions(params, params),
        lambda: pca_directions([params] * 3),
    ):
        with pytest.raises(UsageError, match=f"'odd.weight' is .*{words}.*leave it out"):
            call()


def test_counters_and_flags_among_the_buffers_stay_where_they_are():
    params = {"w": torch.ones(2, 2), "count": torch.tensor(7), "mask": torch.tensor([True, False])}
    d = filter_normalized(params, 0)
    assert list(d) == ["w"]
    moved = along(params, [d], [0.5])
    assert moved["count"] == 7 and moved["mask"].tolist() == [True, False]


def test_real_and_complex_of_one_name_do_not_mix():
    real, both = {"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2, dtype=torch.complex64)}
    for call in (
        lambda: along(real, [both], [1.0]), lambda: cosine(both, real), lambda: checkpoint_directions(real, both),
        lambda: gp.line(lambda p: p["w"].sum(), real, both, [0.0, 1.0]),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"'w' is torch.*complex64.*both real or both complex"):
            call()


class Spectral(nn.Module):
    """Scores from complex weights."""

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128, generator=rng))

    def forward(self, patches):
        return (torch.fft.fft(patches) @ self.weight.T).abs().tanh().sum(-1)


def test_a_landscape_of_a_complex_scorer_moves_both_parts():
    result = landscape(Toy(scorer=Spectral()), gp.build("vpnoise"), 3, grid="3x3", images=3)
    assert np.unique(result.surface).size == 9
    size = result.directions
    assert size["parameters"] == 20 and size["theta"] == pytest.approx(
        float(Spectral().weight.detach().abs().square().sum() ** 0.5)
    )


def test_probes_that_compare_gradients_as_real_vectors_refuse_it_by_name():
    task, op = Toy(scorer=Spectral()), gp.build("vpnoise")
    for call in (
        lambda: coherence(task, op, 3, batches=3, batch_size=2),
        lambda: curvature(task, op, 3, images=2, batch_size=2, eigenvalues=2),
        lambda: reference(task, 3, images=4, draws=32, held_out=4),
    ):
        with pytest.raises(UsageError, match=r"scorer's parameter 'weight' is torch.complex128.*view_as_real"):
            call()

"""Probes let a GPU run ahead: they wait for it as often for many batches, draws and steps as for few.

Counted on a device of the tests, see `far_device`. Where a probe writes finished pieces to disk on its way, it waits
for each of them, and for nothing else.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from far_device import Far, far, far_device, far_module
from probe_contract import arrays_of, small
from toy import Toy

import gradprobe as gp
from gradprobe.core import Noise, Tokens
from gradprobe.deferred import deferring
from gradprobe.errors import GradprobeError
from gradprobe.operators import registry
from gradprobe.operators.registry import names, registered
from gradprobe.probes import gradients, probe_of
from gradprobe.probes.coherence import measure as coherence
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.curvature.hessian import Surface
from gradprobe.probes.gradients import score_gradient

SPECS = sorted({
    *registered(), "hard", "lapsum+dynamicvit", *(f"{name}+scale" for name in names("relaxation")),
    *(f"lapsum+{name}" for name in names("throttle")),
})  # fmt: skip


def far_batch(batch):
    """A batch whose tensors are on the device."""
    tokens = Tokens(far(batch.tokens.prefix), far(batch.tokens.patches))
    return dataclasses.replace(batch, tokens=tokens, target=far(batch.target))


@dataclasses.dataclass(frozen=True)
class FarToy(Toy):
    """The toy task on the device."""

    def __post_init__(self):
        far_module(self.scorer)

    def _batch(self, ids):
        return far_batch(super()._batch(ids))


def measured(probe, operator="vpnoise", task=None, resources=None, **changes):
    """The result of a probe, and the waits that it took."""
    declared = probe_of(probe)
    with far_device() as waits:
        task = FarToy() if task is None else task
        subject = Subject(task, None if probe == "reference" else registry.build(operator), 4)
        settings = small(declared, **changes)
        result = declared.part("measure")(subject, settings, resources or Resources(workers=1))
    return result, waits


def check_same_waits(probe, fewer, more, operator="vpnoise"):
    """Measure with fewer and with more; the host waits as often, and at the same lines."""
    (_, few), (_, many) = (measured(probe, operator, **changes) for changes in (fewer, more))
    assert len(few) > 0
    assert few.lines == many.lines


@pytest.mark.parametrize(
    ("wait", "reason"),
    [
        (lambda x: x[0, 0].item(), "item"),
        (lambda x: float(x.sum()), "item"),
        (lambda x: bool((x > 0).any()), "item"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "nonzero"),
        (lambda x: x.masked_select(x > 0), "nonzero"),
        (lambda x: x.cpu(), "to the host"),
        (lambda x: x.tolist(), "to the host"),
        (lambda x: torch.zeros(2, 3).copy_(x), "to the host"),
        (lambda x: torch.ones(2, 3).to(x), "from the host"),
        (lambda x: torch.tensor(0.5, device=x.device), "from the host"),
        (lambda x: x[torch.tensor([1, 0])], "from the host"),
    ],
)
def test_the_device_counts_what_waits(wait, reason):
    with far_device() as waits:
        wait(far(torch.ones(2, 3)))
    assert waits.counts == {reason: 1}


def test_the_device_does_not_count_what_does_not_wait():
    with far_device() as waits:
        x = torch.randn(2, 3, device="meta")
        y = x.detach().requires_grad_()
        (u,) = torch.autograd.grad((y.softmax(-1) * x).sum(), y)
        z = torch.zeros_like(x).scatter(-1, x.argsort(-1)[:, :1], 1.0)
        z[0] = u.double().square().sum()
        torch.ones(3).to(x, non_blocking=True)
        assert all(isinstance(each, Far) for each in (x, y, u, z))
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(3)
    assert len(waits) == 0


@pytest.mark.parametrize("spec", SPECS)
def test_no_operator_is_waited_for(spec):
    """Neither its selection nor its gradient, which are those of the CPU."""
    operator, losses, slopes = registry.build(spec), [], []
    for task in (Toy(), FarToy()):
        with far_device() as waits:
            (batch,) = task.batches(1, 2, 0)
            scores = task.scorer(batch.tokens.patches)
            with deferring():
                gradient = score_gradient(task, operator, 4, batch, scores, Noise(0, batch.ids), spec)
                assert len(waits) == 0
            losses.append(gradient.losses.cpu())
            slopes.append(None if gradient.u is None else gradient.u.cpu())
    assert torch.allclose(*losses, rtol=1e-10)
    assert (slopes[0] is None) == (slopes[1] is None)
    if slopes[0] is not None:
        assert torch.allclose(*slopes, rtol=1e-7, atol=1e-9 * float(slopes[0].abs().max()))


@pytest.mark.parametrize("spec", ["gumbel", "scale", "vpnoise", "softtopk", "hard"])
def test_coherence_waits_the_same_for_more_batches_and_draws(spec):
    """Its numbers are those of the CPU."""
    sizes = {"batches": 3, "batch_size": 3}
    check_same_waits("coherence", sizes, {**sizes, "batches": 6, "draws": 4}, spec)
    distant, _ = measured("coherence", spec, **sizes)
    near = probe_of("coherence").part("measure")(
        Subject(Toy(), registry.build(spec), 4), small(probe_of("coherence"), **sizes), Resources()
    )
    for name, values in arrays_of(near).items():
        there, scale = getattr(distant, name), near.energy if name == "common" else values
        assert there.shape == values.shape and there.dtype == values.dtype
        assert np.allclose(there, values, rtol=1e-5, atol=1e-9 * np.abs(scale).max())


@pytest.mark.parametrize(("free", "home"), [(80, "cuda"), (79, "cpu"), (0, "cpu")])
def test_gradient_rows_lie_on_a_gpu_where_half_of_its_free_memory_holds_them(free, home, monkeypatch):
    monkeypatch.setattr(gradients, "free_memory", lambda device: free)
    like = SimpleNamespace(device=torch.device("cuda"), element_size=lambda: 4)
    assert gradients.home_of_rows(10, like).type == home
    assert gradients.home_of_rows(10, torch.zeros(1)).type == "cpu"


def test_gradient_rows_that_do_not_fit_go_to_the_host_with_the_same_numbers(monkeypatch):
    there, few = measured("coherence", "vpnoise", batches=3)
    monkeypatch.setattr(coherence, "home_of_rows", lambda count, like: torch.device("cpu"))
    here, waits = measured("coherence", "vpnoise", batches=3)
    assert len(waits) - len(few) == 3 * 2 * 2 - 2  # batches, draws, raw and centred; the two Grams are there already
    assert all(np.array_equal(values, getattr(here, name)) for name, values in arrays_of(there).items())


@pytest.mark.parametrize("spec", ["gumbel", "scale"])
def test_coherence_after_training_waits_the_same_for_more_steps(spec):
    check_same_waits("coherence", {"steps": 2}, {"steps": 5}, spec)


@pytest.mark.parametrize("spec", ["gumbel", "scale", "softtopk", "hard"])
def test_fidelity_waits_the_same_for_more_images_and_noise_draws(spec):
    check_same_waits("fidelity", {"images": 5}, {"images": 9, "noise_draws": 7, "held_out": 200}, spec)


def test_a_reference_waits_for_each_piece_that_it_writes():
    """A piece is 32 draws of one micro-batch."""
    (_, one), (_, two), (_, four) = (measured("reference", draws=draws) for draws in (32, 64, 128))
    each = len(two) - len(one)
    assert 0 < each <= 3 and len(four) - len(two) == 2 * each
    check_same_waits("reference", {"images": 5}, {"images": 50, "held_out": 200})


def test_curvature_waits_once_for_a_loss_and_never_for_a_gradient_or_product_of_any_number_of_batches():
    """Lanczos and the differences decide on the host: they fetch each product, and each loss."""
    for count in (1, 5):
        with far_device() as waits:
            batches = tuple(FarToy().batches(count, 2, 0))
            surface = Surface(FarToy(), registry.build("scale"), 4, "scale", batches, 0)
            theta = surface.theta
            surface.gradient(theta)
            surface.product(torch.ones_like(theta))
            assert len(waits) == 0
            surface.loss(theta)
            assert len(waits) == 1
            surface.loss(theta, check=True)
            assert len(waits) == 3  # the second one settles the check
    result, waits = measured("curvature", "scale", images=4, batch_size=2)
    fetched = sum(n for line, n in waits.lines.items() if line.startswith("probes/curvature/measure.py"))
    assert result.reason == "" and fetched == result.environment["products"]


def test_equivalence_waits_the_same_for_more_batches():
    check_same_waits("equivalence", {"images": 64}, {"images": 256}, "vpnoise")


def test_retention_waits_the_same_for_more_steps_between_its_points_and_more_test_images():
    """Its training curve has eleven points, at each of which accuracies come to the host."""
    sizes = {"steps": 10, "images": 70}
    check_same_waits("retention", sizes, {"steps": 20, "images": 70}, "vpnoise")
    check_same_waits("retention", sizes, {"steps": 10, "images": 200}, "vpnoise")


@pytest.mark.parametrize("spec", ["vpnoise", "hard"])
def test_a_landscape_waits_the_same_for_more_cells_of_a_row(spec):
    check_same_waits("landscape", {"grid": "3"}, {"grid": "9"}, spec)


@pytest.mark.parametrize("spec", ["gumbel", "softtopk"])
def test_a_real_transformer_is_not_waited_for(spec):
    task = gp.classification("scenes", scorer="mlp:width=8")
    far_module(task.backbone.model)
    far_module(task.scorer)

    class Far:
        def batches(self, count, size, seed):
            return map(far_batch, ready[:count])

        def __getattr__(self, name):
            return getattr(task, name)

    near = gp.classification("scenes", scorer="mlp:width=8")
    ready = list(near.batches(5, 1, 0))
    few, many = (measured("coherence", spec, Far(), batches=count, batch_size=1)[1] for count in (3, 5))
    assert few.lines == many.lines


@pytest.mark.parametrize("probe", ["coherence", "fidelity", "curvature", "equivalence", "reference"])
def test_a_loss_that_is_not_finite_is_told_in_the_words_of_a_cpu(probe):
    @dataclasses.dataclass(frozen=True)
    class Poisoned(FarToy):
        def losses(self, selection, batch):
            return super().losses(selection, batch) / far(torch.tensor([float(i != 1) for i in batch.ids]))

    declared = probe_of(probe)
    operator = None if probe == "reference" else registry.build("vpnoise")
    with pytest.raises(GradprobeError) as near:
        declared.part("measure")(Subject(Toy(poison=1), operator, 4), small(declared), Resources(workers=1))
    with pytest.raises(GradprobeError) as later:
        measured(probe, task=Poisoned())
    assert "not finite" in str(near.value) and str(later.value) == str(near.value)

"""The relaxed loss: its gradient is right, and it becomes the deployed loss."""

import pytest
import torch
from searched import LAYERS, asked, numbers, shared

from gradprobe.errors import UsageError
from gradprobe.selectors.dart import DART
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.random import Random
from gradprobe.selectors.sparsevlm import SparseVLM
from gradprobe.selectors.visionzip import VisionZip
from gradprobe.vlm.search.deployed import deployed
from gradprobe.vlm.search.kernels import Free, Steps
from gradprobe.vlm.search.relaxed import Relaxation, relaxed_losses, whole

FAMILIES = ("llava", "qwen2_5_vl")
SELECTORS = (FastV(), PyramidDrop(), SparseVLM(recycled=0))
each_family = pytest.mark.parametrize("family", FAMILIES)
each_selector = pytest.mark.parametrize("selector", SELECTORS, ids=lambda each: type(each).__name__)


def lost(family, selector, counts, tau):
    """The relaxed loss of held-out images, in evaluation mode."""
    task, (group,) = shared(family), asked(family=family).groups
    with task.running():
        return relaxed_losses(task, group, Relaxation(selector, counts, tau))


def total(family):
    return asked(family=family).groups[0].tokens.patches.shape[1]


@each_family
@each_selector
@pytest.mark.parametrize("rest", [(9, 9, 4), (7, 3, 1), (3, 3, 3)], ids=str)
def test_becomes_the_deployed_loss_as_tau_falls(family, selector, rest):
    n, (group,) = total(family), asked(family=family).groups
    counts = [n, *(min(n, k) for k in rest)]
    with torch.no_grad():
        soft = [lost(family, selector, numbers(*counts), tau).mean().item() for tau in (3.0, 1e-3)]
    hard = deployed(shared(family), selector, counts, [group], 0).loss
    assert soft[1] == pytest.approx(hard, abs=1e-5)
    assert abs(soft[0] - hard) > 1e-4  # and softness matters
    everything = deployed(shared(family), selector, [n] * LAYERS, [group], 0).loss
    assert abs(everything - hard) > 1e-4  # and so does dropping


@each_family
@pytest.mark.parametrize("tau", [1e-3, 1.0])
def test_all_tokens_are_the_unpruned_model_and_a_layer_that_drops_nothing_changes_nothing(family, tau):
    n = total(family)
    task, (group,) = shared(family), asked(family=family).groups
    hard = deployed(task, FastV(), [n] * LAYERS, [group], 0).loss
    with torch.no_grad():
        assert lost(family, FastV(), numbers(*[n] * LAYERS), tau).mean().item() == pytest.approx(hard, abs=1e-9)
    seen = []

    class Told(FastV):
        def scores(self, view):
            seen.append(super().scores(view))
            return seen[0]  # the order of the first layer, at all layers

    with torch.no_grad():
        once = lost(family, Told(), numbers(n, 4, 4, 4), tau)
        again = lost(family, Told(), numbers(n, 4, 4 - 1e-9, 4 - 2e-9), tau)
    assert (once - again).abs().max() <= 1e-6  # no weight fades twice


@each_selector
@pytest.mark.parametrize("kernel", [Steps(1), Steps(2), Free()], ids=lambda kernel: kernel.label)
def test_the_gradient_in_the_kernels_numbers_is_that_of_finite_differences(kernel, selector):
    n = total("llava")
    start = kernel.start(LAYERS, 0.2, 0.6)
    start = start + torch.linspace(-0.3, 0.4, len(start), dtype=torch.float64)

    def loss(values):
        return lost("llava", selector, kernel.shares(values, LAYERS, 4) * n, 1.5).mean()

    values = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(values), values)
    step = 1e-6
    with torch.no_grad():
        finite = [(loss(start + e) - loss(start - e)) / (2 * step) for e in step * torch.eye(len(start)).double()]
    assert gradient.norm() > 1e-3
    assert (gradient - torch.stack(finite)).norm() <= 1e-5 * gradient.norm()


def test_counts_are_rounded_forward_and_not_backward():
    counts = numbers(9.4, 2.6, 0.2).requires_grad_(True)
    rounded = whole(counts)
    assert rounded.tolist() == [9, 3, 1]
    (gradient,) = torch.autograd.grad((rounded * numbers(1, 2, 3)).sum(), counts)
    assert gradient.tolist() == [1, 2, 3]


def test_a_random_order_of_dropped_tokens_brings_none_back():
    n = total("llava")
    counts = numbers(n, 5, 5, 5)
    with torch.no_grad():
        soft = lost("llava", Random(), counts, 1e-3)
    assert soft.isfinite().all()
    hard = deployed(shared(), Random(), [n, 5, 5, 5], asked().groups, 0).loss
    assert soft.mean().item() == pytest.approx(hard, abs=1e-5)


@pytest.mark.parametrize("selector", [DART(2, 2), VisionZip()], ids=lambda each: type(each).__name__)
def test_selectors_without_scores_are_refused(selector):
    with pytest.raises(UsageError, match=r"scores none.*fastv"):
        lost("llava", selector, numbers(9, 5, 5, 5), 1.0)

"""Operators whose draws are all the same are told from others without the frozen model, as by measuring two draws."""

from dataclasses import dataclass, field

import pytest
import torch
from probe_contract import small
from toy import Toy

from gradprobe.core import Noise, Selection
from gradprobe.errors import GradprobeError
from gradprobe.operators import registry
from gradprobe.operators.registry import names, registered
from gradprobe.operators.softtopk import soft_topk
from gradprobe.probes import probe_of
from gradprobe.probes.coherence.measure import coherence
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.determinism import Recorder, declared_stochastic, repeats
from gradprobe.probes.gradients import score_gradient

SPECS = sorted({*registered(), *(f"{r}+{t}" for r in names("relaxation") for t in ("gather", "scale", "dynamicvit"))})


@dataclass(frozen=True)
class Counting(Toy):
    """The toy task, which counts the images that its frozen model reads."""

    read: list = field(default_factory=list)

    def losses(self, selection, batch):
        self.read.append(len(batch.ids))
        return super().losses(selection, batch)


def both(operator, images=3, k=4):
    """Return whether two draws of a batch have the same gradient: by measuring both, and by `repeats`."""
    task = Toy()
    (batch,) = task.batches(1, images, 0)
    scores, noise = task.scorer(batch.tokens.patches).detach(), Noise(0, range(images))
    draws = [score_gradient(task, operator, k, batch, scores, noise.draw(r), "op").u for r in (0, 1)]
    recorder = Recorder(operator)
    recorded = score_gradient(task, recorder, k, batch, scores, noise.draw(0), "op").u
    if draws[0] is None:
        assert recorded is None
        return False, repeats(recorder, "op")
    assert torch.equal(recorded, draws[0])  # to be recorded changes no bit
    return torch.equal(*draws), repeats(recorder, "op")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("k", [4, 10])
def test_it_says_what_measuring_two_draws_says(spec, k):
    """An operator that says it is stochastic is never cut to one draw, whatever two draws of a batch happen to be."""
    operator = registry.build(spec)
    measured, told = both(operator, k=k)
    if declared_stochastic(operator):
        assert measured or not told
    else:
        assert measured == told


class Doubled(torch.autograd.Function):
    """The identity, whose gradient comes back times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


def weighted(patches, weights):
    return Selection(patches * weights[..., None], weights)


def plain(patches, scores, k, noise):
    return weighted(patches, soft_topk(scores, k))


def noisy_backward(patches, scores, k, noise):
    return weighted(patches, soft_topk(Doubled.apply(scores, noise.uniform((1,), like=scores)), k))


def noisy_forward(patches, scores, k, noise):
    weights = soft_topk(scores, k)
    return Selection(patches * weights[..., None] + noise.normal(patches.shape[1:], like=patches), weights)


def noisy_in_one_image(patches, scores, k, noise):
    last = torch.arange(len(scores)) == len(scores) - 1
    return weighted(patches, soft_topk(scores + last[:, None] * noise.normal(scores.shape[1:], like=scores), k))


def noisy_penalty(patches, scores, k, noise):
    penalty = scores.square().sum(-1) * noise.uniform((1,), like=scores)[:, 0]
    return Selection(patches, soft_topk(scores, k), penalty=penalty)


def steady_penalty(patches, scores, k, noise):
    return Selection(patches, soft_topk(scores, k), penalty=scores.square().sum(-1))


@pytest.mark.parametrize(
    ("operator", "same"),
    [
        (plain, True), (steady_penalty, True), (noisy_backward, False), (noisy_forward, False),
        (noisy_in_one_image, False), (noisy_penalty, False),
    ],
)  # fmt: skip
def test_an_operator_that_declares_nothing_is_found_out(operator, same):
    assert both(operator) == (same, same)


@pytest.mark.parametrize(
    ("operator", "same"), [("scale", True), (plain, True), ("vpnoise", False), (noisy_backward, False)]
)
def test_the_frozen_model_reads_each_image_of_coherence_once_a_draw(operator, same):
    task = Counting()
    result = coherence(task, registry.build(operator), 4, batches=5, batch_size=3, draws=3)
    assert sum(task.read) == 5 * 3 * (1 if same else 3)
    assert (result.losses[:, 0] == result.losses[:, 1]).all() == (same or operator is noisy_backward)


@pytest.mark.parametrize(("operator", "same"), [("scale", True), ("vpnoise", False), (noisy_in_one_image, False)])
def test_the_frozen_model_reads_each_image_of_fidelity_once_a_draw(operator, same):
    task, probe = Counting(), probe_of("fidelity")
    reference = probe_of("reference")
    settings = small(probe, images=20, scores="random", noise_draws=4)
    known = reference.part("measure")(Subject(task, None, 4), settings.reference, Resources(workers=1))
    task.read.clear()
    subject = Subject(task, registry.build(operator), 4)
    probe.part("measure")(subject, settings, Resources(workers=1, reference=known))
    assert sum(task.read) == 20 * (1 if same else 4)


@pytest.mark.parametrize("answer", [None, 3, "tokens"])
def test_what_is_no_selection_is_refused_in_the_same_words(answer):
    def operator(patches, scores, k, noise):
        return answer

    with pytest.raises(GradprobeError, match=f"returned {type(answer).__name__}; return a gradprobe.Selection"):
        coherence(Toy(), operator, 4, batches=3, batch_size=2)

"""Losses, gradients and trainings on a device beside those of the host."""

from dataclasses import replace

import pytest
import torch

import gradprobe as gp
from gradprobe.core import Noise, Selection
from gradprobe.deferred import deferring
from gradprobe.noise import HOST
from gradprobe.probes.gradients import score_gradient
from gradprobe.training.joined import Joined
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe

OPERATORS = ("vpnoise", "gumbel", "scale", "softtopk", "plackett-luce")
K = 58


def scenes(device, dtype="float64"):
    return gp.classification("scenes", device=device, dtype=dtype, generator=HOST)


def vlm(device, dtype="float32"):
    return gp.vlm.captioning("scenes-vlm", device=device, dtype=dtype, scorer="transformer", denoiser="token")


@pytest.mark.parametrize("name", OPERATORS)
def test_losses_and_gradients_are_those_of_the_host(device, name):
    found = {}
    for place in ("cpu", device):
        task = scenes(place)
        with task.running():
            (batch,) = task.batches(1, 4, 0)
            scores = task.scorer(batch.tokens.patches)
            gradient = score_gradient(task, gp.build(name), K, batch, scores, Noise(0, batch.ids), name)
        assert gradient.u.device.type == place
        found[place] = gradient.losses.cpu(), gradient.u.cpu()
    for mine, theirs in zip(found[device], found["cpu"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-7)


def test_bfloat16_autocast_gives_losses_near_those_of_float32(device):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        task = scenes(device, dtype)
        (batch,) = task.batches(1, 16, 0)
        everything = Selection(batch.tokens.patches, torch.ones(batch.tokens.patches.shape[:2], device=device))
        with torch.no_grad():
            losses[dtype] = task.losses(everything, batch)
        assert losses[dtype].dtype == torch.float32
    assert losses["bfloat16"].isfinite().all()
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], atol=0.2, rtol=0.1)
    assert not torch.equal(losses["bfloat16"], losses["float32"])


@pytest.mark.parametrize("name", OPERATORS)
def test_a_training_is_that_of_the_host_to_rounding(device, name):
    recipe, losses = Recipe(steps=3, batch_size=6, seed=1), {}
    for place in ("cpu", device):
        task = scenes(place)
        trainer = ScorerTrainer(task, gp.build(name), K, name, recipe, 1)
        with task.running():
            assert list(trainer.run()) == [1, 2, 3]
        losses[place] = torch.tensor([float(loss) for loss in trainer.losses])
    torch.testing.assert_close(losses[device], losses["cpu"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_scorers_side_by_side_are_trained_as_alone(device, name):
    seeds, recipe, task = (1, 2, 3), Recipe(steps=3, batch_size=6), scenes(device)
    joint = ScorerTrainer(
        Joined(tuple(task.with_new_scorer(seed) for seed in seeds), seeds, (K,) * 3), gp.build(name), K, name, recipe, 1
    )
    with task.running(), deferring():
        list(joint.run())
        for s, seed in enumerate(seeds):
            alone = ScorerTrainer(task.with_new_scorer(seed), gp.build(name), K, name, replace(recipe, seed=seed), 1)
            list(alone.run())
            mine = torch.tensor([losses[s] for losses in joint.losses])
            torch.testing.assert_close(mine, torch.tensor(alone.losses), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scorer", ["mlp:width=8", "transformer:depth=1"])
def test_captions_of_several_seeds_are_trained_side_by_side(device, scorer):
    task = gp.vlm.captioning("scenes-vlm", device=device, scorer=scorer, denoiser="token", generator=HOST)
    seeds, recipe = (1, 2), Recipe(steps=2, batch_size=4)
    tasks = tuple(task.with_new_scorer(seed) for seed in seeds)
    joint = ScorerTrainer(Joined(tasks, seeds, (11, 11)), gp.build("vpnoise"), 11, "vpnoise", recipe, 1)
    with task.running():
        list(joint.run())
    assert torch.tensor(joint.losses).isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["vpnoise", "gumbel", "softtopk"])
def test_a_vision_language_model_trains_a_scorer(device, name, dtype):
    task = vlm(device, dtype)
    before = [p.detach().clone() for p in task.scorer.parameters()]
    trainer = ScorerTrainer(task, gp.build(name), 11, name, Recipe(steps=1, batch_size=4, seed=0), 1)
    with task.running():
        assert list(trainer.run()) == [1]
    assert all(torch.tensor(float(loss)).isfinite() for loss in trainer.losses)
    assert any(not torch.equal(a, b) for a, b in zip(before, task.scorer.parameters(), strict=True))
    assert all(p.device.type == device and p.dtype == torch.float32 for p in task.scorer.parameters())


def test_captions_cost_on_the_device_what_they_cost_on_the_host(device):
    losses = {}
    for place in ("cpu", device):
        task = gp.vlm.captioning("scenes-vlm", device=place)
        (batch,) = task.batches(1, 4, 0)
        everything = Selection(batch.tokens.patches, torch.ones(batch.tokens.patches.shape[:2], device=place))
        with torch.no_grad():
            losses[place] = task.losses(everything, batch).cpu()
    torch.testing.assert_close(losses[device], losses["cpu"], atol=1e-4, rtol=1e-4)

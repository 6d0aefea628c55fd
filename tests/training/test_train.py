"""Training of a scorer: recipe, bits independent of resuming and workers, numbers of a plain loop."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from toy import Toy

from gradprobe.core import Batch, Noise, RaggedBatch, Selection, Tokens, hard_topk
from gradprobe.errors import GradprobeError
from gradprobe.operators.registry import build, label
from gradprobe.operators.temperature import at_tau, own_tau
from gradprobe.training.scorer_trainer import ScorerTrainer, Shard
from gradprobe.training.surrogate_loss import TWIN
from gradprobe.training.train import Recipe

RECIPE = Recipe(steps=6, batch_size=13, learning_rate=0.02, weight_decay=0.1, seed=3)  # groups of 8 and 5


def sampled(patches, scores, k, noise):
    """A score-function operator: K tokens by perturbed scores, with the log-probability of a softmax."""
    chosen = hard_topk(patches, scores + noise.gumbel(scores.shape[1:], like=scores), k)
    log_prob = scores.log_softmax(-1).gather(1, chosen.index).sum(-1)
    return Selection(chosen.tokens, chosen.weights, chosen.index, log_prob=log_prob)


def fitting(op="vpnoise", recipe=RECIPE, workers=2, task=None):
    operator = build(op) if isinstance(op, str) else op
    return ScorerTrainer(task or Toy(), operator, 4, label(operator), recipe, workers)


def finished(one):
    list(one.run())
    return one


def same(one, other):
    assert one.losses == other.losses
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


# --- recipe ---


def test_rate_and_tau_fall_by_a_cosine():
    recipe = Recipe(steps=4, learning_rate=0.8, tau_start=2.0, tau_end=1.0)
    half = math.cos(math.pi / 4) / 2
    assert [recipe.rate(t) for t in range(4)] == pytest.approx([0.8, 0.8 * (0.5 + half), 0.4, 0.8 * (0.5 - half)])
    assert [recipe.tau(t) for t in range(4)] == pytest.approx([2.0, 1.5 + half, 1.5, 1.5 - half])
    long = Recipe(steps=2000)
    assert long.tau(0) == 2.0 and long.tau(1999) == pytest.approx(0.1, abs=1e-5) and long.rate(1999) < 2e-9


@dataclass(frozen=True)
class Warm:
    tau: float = 0.5

    def __call__(self, patches, scores, k, noise):
        return Selection(patches, (scores / self.tau).sigmoid())


def test_at_tau_changes_the_temperature_alone():
    assert label(at_tau(build("vpnoise:sigma=unit"), 0.3)) == "lapsum:tau=0.3+vpnoise:sigma=unit"
    assert label(at_tau(build("gumbel-ste:backward=soft,scale=2+zero"), 0.3)) == (
        "gumbel-ste:backward=soft,scale=2,tau=0.3+zero"
    )
    assert at_tau(Warm(), 2.0) == Warm(2.0)
    for without in (build("hard"), sampled):
        assert at_tau(without, 0.3) is without
    original = build("vpnoise")
    at_tau(original, 0.3)
    assert label(original) == "lapsum+vpnoise"


@pytest.mark.parametrize(
    ("operator", "own"),
    [(build("vpnoise"), False), (build("vpnoise:tau=0.3"), True), (build("gumbel-ste:tau=2+gather"), True),
     (build("vpnoise:sigma=unit"), False), (build("hard"), False), (Warm(), False), (Warm(0.4), True),
     (sampled, False)],
)  # fmt: skip
def test_a_tau_is_ones_own_if_it_is_not_the_default(operator, own):
    assert own_tau(operator) is own


# --- the same bits ---


@pytest.mark.parametrize("op", ["vpnoise", "gumbel"])
def test_resumed_at_any_step_it_ends_in_the_same_bits(op):
    whole = finished(fitting(op))
    for stop in range(RECIPE.steps + 1):
        first = fitting(op)
        for _, _ in zip(range(stop), first.run(), strict=False):
            pass
        state = load(save({name: tensor.contiguous() for name, tensor in first.state_dict().items()}))
        task = Toy()
        for p in task.scorer.parameters():
            p.data.add_(1.0)  # whatever was there is replaced
        second = fitting(op, task=task)
        second.load_state_dict(state)
        assert list(second.run()) == list(range(stop + 1, RECIPE.steps + 1))
        same(whole, second)


def test_a_parameter_that_is_not_used_does_not_hinder_resuming():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.spare = Toy().scorer, nn.Parameter(torch.ones(2))

        def forward(self, patches):
            return self.inner(patches)

    first = fitting(task=Toy(scorer=Spare()))
    next(first.run())
    second = fitting(task=Toy(scorer=Spare()))
    second.load_state_dict(first.state_dict())
    same(finished(fitting(task=Toy(scorer=Spare()))), finished(second))


def test_the_number_of_workers_changes_no_bit():
    recipe = Recipe(steps=3, batch_size=29, learning_rate=0.02)
    one = finished(fitting(recipe=recipe, workers=1))
    for workers in (2, 3):
        same(one, finished(fitting(recipe=recipe, workers=workers)))


def test_another_seed_is_another_training():
    one, other = (finished(fitting(recipe=Recipe(steps=2, batch_size=4, seed=s))) for s in (0, 1))
    assert one.losses != other.losses


# --- the same numbers as the plain loop ---


@pytest.mark.parametrize("tau", [2.0, None])
@pytest.mark.parametrize("op", ["vpnoise", "gumbel-ste:backward=soft+gather", sampled])
def test_it_is_a_loop_over_whole_batches(op, tau):
    recipe = Recipe(6, 13, 0.02, 0.1, tau, None if tau is None else 0.1, seed=3)
    operator = build(op) if isinstance(op, str) else op
    task = Toy()
    optimiser = torch.optim.AdamW(task.scorer.parameters(), lr=0.02, weight_decay=0.1)
    losses = []
    for step, batch in zip(range(6), task.training_batches(13, 3), strict=False):
        share = (1 + math.cos(math.pi * step / 6)) / 2
        heated = operator if tau is None else at_tau(operator, 0.1 + 1.9 * share)
        noise = Noise(3, batch.ids).draw(step + 1)
        selection = heated(batch.tokens.patches, task.scorer(batch.tokens.patches), 4, noise=noise)
        each = task.losses(selection, batch)
        loss = each.mean()
        if selection.log_prob is not None:  # the second sample, by hand
            scores = task.scorer(batch.tokens.patches)
            twin = heated(batch.tokens.patches, scores, 4, noise=noise.draw(step + 1 + TWIN))
            advantage = (each - task.losses(twin, batch)).detach()
            loss = loss + (advantage * (selection.log_prob - twin.log_prob)).mean() / 2
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * share
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(each.detach().mean()))
    trainer = finished(fitting(operator, recipe))
    assert trainer.losses == pytest.approx(losses, rel=1e-10)
    for (_, mine), plain, old in zip(
        trainer.named_parameters(), task.scorer.parameters(), Toy().scorer.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-10)
        assert not torch.equal(mine, old)


def test_a_frozen_parameter_stays_and_no_gradient_is_left_behind():
    task = Toy()
    task.scorer[0].bias.requires_grad_(False)
    before = task.scorer[0].bias.clone()
    finished(fitting(task=task))
    assert torch.equal(task.scorer[0].bias, before)
    assert all(p.grad is None for p in task.scorer.parameters())


# --- what cannot be trained ---


def test_no_gradient_is_said():
    with pytest.raises(GradprobeError, match=r"hard\+gather gives the scorer no gradient"):
        finished(fitting("hard"))


def test_a_loss_that_is_not_finite_names_step_and_images():
    poisoned = 10_000 + 13 + 4  # the fifth image of the second step
    with pytest.raises(GradprobeError, match=rf"loss is not finite at training step 2 \(image ids {poisoned}\)"):
        finished(fitting(task=Toy(poison=poisoned)))


def test_a_gradient_that_is_not_finite_is_refused_before_it_is_taken():
    def root(patches, scores, k, noise):
        weights = 1 + (scores - scores).sqrt()  # 1, and a gradient of inf - inf
        return Selection(patches * weights[..., None], weights)

    one = fitting(root)
    before = [p.detach().clone() for _, p in one.named_parameters()]
    with pytest.raises(GradprobeError, match="gradient is not finite at training step 1"):
        finished(one)
    assert all(torch.equal(p, old) for (_, p), old in zip(one.named_parameters(), before, strict=True))


# --- denoisers, shares, sizes ---


class Shift(nn.Module):
    """A denoiser that begins as the identity."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.zeros(5, dtype=torch.float64))

    def forward(self, tokens):
        return tokens + self.by


def with_denoiser():
    task = Toy()
    object.__setattr__(task, "denoiser", Shift())
    return task


def test_a_denoiser_is_trained_with_the_scorer_and_acts_in_training_alone():
    task = with_denoiser()
    fit = finished(fitting("vpnoise", task=task))
    assert task.denoiser.by.abs().max() > 1e-3
    assert fit.losses[0] == pytest.approx(
        finished(fitting("vpnoise")).losses[0], rel=1e-12
    )  # it begins as the identity
    (batch,) = task.batches(1, 4, 0)
    selection = hard_topk(batch.tokens.patches, task.scorer(batch.tokens.patches), 4)
    assert torch.equal(task.losses(selection, batch), Toy(scorer=task.scorer).losses(selection, batch))
    assert {n for n in fit.state_dict() if n.startswith("scorer.denoiser")} == {"scorer.denoiser.by"}


def test_a_run_with_a_denoiser_resumes_in_the_same_bits():
    whole = finished(fitting("scale", task=with_denoiser()))
    first, again = fitting("scale", task=with_denoiser()), fitting("scale", task=with_denoiser())
    walk = first.run()
    for _ in range(3):
        next(walk)
    again.load_state_dict(load(save({n: t.clone() for n, t in first.state_dict().items()})))
    same(finished(again), whole)


class Idle(Shift):
    """A denoiser with a parameter that plays no part, which AdamW leaves alone."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))


def test_processes_that_share_a_batch_train_as_one_does():
    meeting, handed = threading.Barrier(2), [None, None]

    def adder(rank):
        def add(tensors):
            handed[rank] = tensors
            meeting.wait()
            total = [a + b for a, b in zip(*handed, strict=True)]
            meeting.wait()
            return total

        return add

    def task():
        made = Toy()
        object.__setattr__(made, "denoiser", Idle())
        return made

    alone = finished(fitting("vpnoise", task=task()))
    assert bool((dict(alone.named_parameters())["denoiser.idle"] == 1).all())
    shared = [
        ScorerTrainer(task(), build("vpnoise"), 4, "vpnoise", RECIPE, 1, shard=Shard(rank, 2, adder(rank)))
        for rank in (0, 1)
    ]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(finished, shared))
    same(*both)
    assert both[0].losses == pytest.approx(alone.losses, rel=1e-10)
    assert bool((dict(both[0].named_parameters())["denoiser.idle"] == 1).all())
    for (_, a), (_, b) in zip(both[0].named_parameters(), alone.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@dataclass(frozen=True)
class TwoSizes(Toy):
    """Training batches of images with 10 tokens and images with 6."""

    def training_batches(self, size, seed, start=0):
        for whole in super().training_batches(size, seed, start):
            few = whole.subset(slice(0, 4))
            patches = few.tokens.patches[:, :6]
            yield RaggedBatch(
                (Batch(few.ids, Tokens(few.tokens.prefix, patches), few.target), whole.subset(slice(4, None)))
            )


def test_images_of_two_sizes_have_budgets_of_their_own():
    calls = []

    def op(patches, scores, k, noise):
        calls.append((patches.shape[1], k, len(patches)))
        return build("scale")(patches, scores, k, noise=noise)

    task = TwoSizes()
    fit = ScorerTrainer(task, op, lambda n: n // 2, "op", Recipe(2, 13, tau_start=None, tau_end=None), 1, rows=5)
    list(fit.run())
    assert calls == [(6, 3, 4), (10, 5, 5), (10, 5, 4)] * 2
    assert len(fit.losses) == 2 and all(math.isfinite(x) for x in fit.losses)


def test_tau_falls_for_a_while_and_is_held():
    recipe = Recipe(steps=10, tau_start=2.0, tau_end=0.1, tau_steps=4)
    short = Recipe(steps=4, tau_start=2.0, tau_end=0.1)
    assert [recipe.tau(t) for t in range(4)] == [short.tau(t) for t in range(4)]
    assert {recipe.tau(t) for t in range(4, 10)} == {0.1}
    assert recipe.rate(5) > 0

"""Surrogate loss: loss, penalty, and the score function with its second sample."""

import itertools
from dataclasses import dataclass

import torch
from toy import Toy

from gradprobe.core import Noise, Operator
from gradprobe.operators import registry
from gradprobe.probes.gradients import score_gradient
from gradprobe.training.surrogate_loss import surrogate_loss


def one(size=2):
    task = Toy()
    batch = next(task.batches(1, size, 0))
    return task, batch, task.scorer(batch.tokens.patches).detach()


@dataclass(frozen=True)
class Charged:
    """A relaxation that adds to the loss."""

    def __call__(self, scores, k, noise):
        return scores.sigmoid()

    def penalty(self, scores, weights, k):
        return 7 * scores.square().sum(-1)


def test_a_penalty_is_differentiated_and_no_part_of_the_reported_loss():
    task, batch, scores = one()
    noise = Noise(0, batch.ids)
    throttle = registry.part("throttle", "scale")
    with_it = score_gradient(task, Operator(Charged(), throttle), 3, batch, scores, noise, "op")
    plain = score_gradient(task, Operator(lambda s, k, n: s.sigmoid(), throttle), 3, batch, scores, noise, "op")
    assert torch.equal(with_it.losses, plain.losses)
    torch.testing.assert_close(with_it.u, plain.u + 14 * scores)
    _, terms = surrogate_loss(task, Operator(Charged(), throttle), 3, batch, scores, noise, "op")
    torch.testing.assert_close(terms, plain.losses + 7 * scores.square().sum(-1))


def test_plackett_luce_is_unbiased_for_the_loss_of_a_real_task():
    task, batch, scores = one()
    operator = registry.build("plackett-luce")
    draws = torch.stack([
        score_gradient(task, operator, 2, batch, scores, Noise(0, batch.ids).draw(r), "pl").u for r in range(4000)
    ])  # fmt: skip
    leaf = scores.clone().requires_grad_()
    total = torch.zeros(len(scores), dtype=scores.dtype)
    for pair in itertools.combinations(range(scores.shape[1]), 2):  # unordered; each in two orders
        low = torch.full_like(scores, -1e9)
        low[:, list(pair)] = scores[:, list(pair)]
        with torch.no_grad():
            loss = surrogate_loss(task, registry.build("hard"), 2, batch, low, Noise(0, batch.ids), "hard")[0]
        p = leaf.softmax(-1)
        i, j = pair
        total = total + loss * (p[:, i] * p[:, j] / (1 - p[:, i]) + p[:, j] * p[:, i] / (1 - p[:, j]))
    (exact,) = torch.autograd.grad(total.sum(), leaf)
    apart = (draws.mean(0) - exact).abs() / (draws.std(0) / len(draws) ** 0.5)
    assert apart.max() < 4.5
    assert (exact.abs() / (draws.std(0) / len(draws) ** 0.5)).max() > 9  # the test can tell it from nothing


def test_the_terms_of_a_score_function_have_the_value_of_the_loss():
    task, batch, scores = one()
    losses, terms = surrogate_loss(
        task, registry.build("plackett-luce"), 2, batch, scores.requires_grad_(), Noise(0, batch.ids), "pl"
    )
    assert torch.equal(losses, terms)
    assert terms.requires_grad

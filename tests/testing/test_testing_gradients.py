"""Declared gradients: what is right in the mean passes; a wrong size, estimate or log-probability is found."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from planted import Planted

from gradprobe.core import Operator, Selection
from gradprobe.operator_info import About
from gradprobe.operators import registry
from gradprobe.operators.softtopk import soft_topk
from gradprobe.testing import check_operator, examine


def perturbed(change=lambda weights, scores: weights):
    def act(patches, scores, k, noise):
        weights = registry.part("relaxation", "perturbed:samples=20")(scores, k, noise)
        return Selection(patches * weights[..., None], change(weights, scores))

    return act


GATHER = registry.part("throttle", "gather")
UNBIASED = About("", "unbiased", stochastic=True, budget=1e-6)


def gradient_of(operator):
    return next(f for f in examine(operator) if f.property == "gradient")


def test_a_sampled_gradient_that_is_right_in_the_mean_passes():
    finding = gradient_of(Planted(perturbed(), UNBIASED))
    assert finding.status == "passed", finding


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4])
def test_a_sampled_gradient_of_the_wrong_size_is_found(factor):
    def scaled(weights, scores):
        return weights.detach() + factor * (weights - weights.detach())

    finding = gradient_of(Planted(perturbed(scaled), UNBIASED))
    assert finding.status == "failed"
    assert "standard errors" in finding.told


@pytest.mark.parametrize("spec", ["gumbel-ste", "gumbel-ste:backward=soft", "decoupled-ste", "shiva", "imle"])
def test_a_straight_through_gradient_is_not_unbiased(spec):
    relaxation = registry.part("relaxation", spec)

    def act(patches, scores, k, noise):
        weights = relaxation(scores, k, noise)
        return Selection(patches * weights[..., None], weights)

    assert gradient_of(Planted(act, UNBIASED)).status == "failed"


@dataclass(frozen=True)
class Scored:
    """Plackett-Luce with its log-probability changed."""

    change: Callable
    about = About("", "unbiased", stochastic=True, budget=1e-9)

    def __call__(self, scores, k, noise):
        return registry.part("relaxation", "plackett-luce")(scores, k, noise)

    def log_prob(self, scores, k, noise):
        return self.change(scores, k, noise)


def independent(scores, k, noise):
    """As if the tokens were drawn with replacement: a common mistake."""
    kept = registry.part("relaxation", "plackett-luce")(scores, k, noise)
    return (scores.log_softmax(-1) * kept).sum(-1)


def test_a_wrong_log_probability_is_found():
    assert gradient_of(Operator(Scored(independent), GATHER)).status == "failed"


def half_of_it(scores, k, noise):
    return registry.part("relaxation", "plackett-luce").log_prob(scores, k, noise) / 2


def declared(gradient, log_prob):
    @dataclass(frozen=True)
    class Declared(Scored):
        about = About("", gradient, stochastic=True, budget=1e-9) if gradient else None

    return Operator(Declared(log_prob), GATHER)


@pytest.mark.parametrize("log_prob", [independent, half_of_it])
def test_an_approximate_log_probability_that_is_declared_biased_passes(log_prob):
    finding = gradient_of(declared("biased", log_prob))
    assert (finding.status, finding.told.partition(":")[0]) == ("passed", "a score function's, biased as declared")
    check_operator(declared("biased", log_prob))


def test_an_exact_log_probability_that_is_declared_biased_passes_and_hears_that_it_is_not():
    finding = gradient_of(declared("biased", registry.part("relaxation", "plackett-luce").log_prob))
    assert finding.status == "passed"
    assert finding.told.endswith("it may be declared unbiased")


@pytest.mark.parametrize("gradient", ["exact", "none"])
def test_a_score_function_is_neither_exact_nor_none_and_the_remedy_is_a_way_out(gradient):
    """Its hard weights have derivative zero, which is what differences find: that does not make it exact."""
    finding = gradient_of(declared(gradient, independent))
    assert finding.status == "failed"
    assert 'declare gradient="unbiased", or "biased"' in finding.remedy


def test_a_score_function_that_declares_nothing_hears_what_it_can_be():
    finding = gradient_of(declared(None, independent))
    assert finding.status == "skipped"
    assert "score function" in finding.told


def test_a_log_probability_without_a_graph_is_found():
    finding = gradient_of(declared("biased", lambda scores, k, noise: scores.sum(-1).detach()))
    assert (finding.status, finding.remedy) == ("failed", "keep the graph from scores to log_prob")


def zero_slope(patches, scores, k):
    """Hard top-K joined to the scores by a graph with zero gradient."""
    weights = torch.zeros_like(scores).scatter(-1, scores.topk(k).indices, 1.0) + 0 * scores
    return Selection(patches * weights[..., None], weights)


def test_a_gradient_that_is_zero_everywhere_is_not_exact():
    finding = gradient_of(Planted(lambda patches, scores, k, noise: zero_slope(patches, scores, k)))
    assert (finding.status, finding.told) == ("failed", "the gradient is zero everywhere")


def test_a_gradient_too_noisy_to_tell_is_not_called_right():
    def loud(patches, scores, k, noise):
        weights = soft_topk(scores, k)
        extra = 300 * noise.normal(scores.shape[1:], like=scores) * (scores - scores.detach())
        return Selection(patches * weights[..., None], weights + extra)

    assert gradient_of(Planted(loud, UNBIASED)).status == "skipped"

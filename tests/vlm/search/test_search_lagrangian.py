"""The augmented Lagrangian finds the optimum of convex toys, and leaves budget unused or not, as its form says."""

import pytest
import torch

from gradprobe.errors import UsageError
from gradprobe.vlm.search.lagrangian import FORMS, Multiplier

each_form = pytest.mark.parametrize("form", FORMS)


def minimised(multiplier, least, budget, outer=25):
    """The least ``(x - least)^2 + (y - 1)^2`` with ``x + y`` at, or at most, a budget; each inner one to the end."""
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(outer):
        optimiser = torch.optim.LBFGS([x], lr=1, max_iter=60, tolerance_change=1e-14, line_search_fn="strong_wolfe")

        def objective(optimiser=optimiser, multiplier=multiplier):
            optimiser.zero_grad()
            loss = (x[0] - least) ** 2 + (x[1] - 1) ** 2 + multiplier.term(x.sum() - budget)
            loss.backward()
            return loss

        optimiser.step(objective)
        multiplier = multiplier.updated(float(x.detach().sum()) - budget)
    return x.detach(), multiplier


@each_form
def test_a_budget_that_binds_is_met_and_the_multiplier_is_the_known_one(form):
    x, multiplier = minimised(Multiplier(form, rho=1.0), least=3.0, budget=2.0)  # x = (2, 0), each less by lambda / 2
    assert x.tolist() == pytest.approx([2.0, 0.0], abs=1e-5)
    assert multiplier.value == pytest.approx(2.0, abs=1e-4)


def test_a_budget_that_does_not_bind_is_left_unused_by_one_form_and_used_by_the_other():
    x, multiplier = minimised(Multiplier("at-most", rho=1.0), least=3.0, budget=6.0)
    assert x.tolist() == pytest.approx([3.0, 1.0], abs=1e-5) and multiplier.value == 0
    assert multiplier.rho == 1  # no violation: it does not grow
    x, multiplier = minimised(Multiplier("equal", rho=1.0), least=3.0, budget=6.0)
    assert x.tolist() == pytest.approx([4.0, 2.0], abs=1e-5)
    assert multiplier.value == pytest.approx(-2.0, abs=1e-4)


@each_form
def test_rho_grows_only_where_a_violation_above_the_slack_has_not_halved(form):
    first = Multiplier(form, rho=10.0).updated(0.2)
    assert first.rho == 10 and first.updated(0.05).rho == 10 and first.updated(0.15).rho == 30
    assert first.updated(0.15, slack=0.2).rho == 10


def test_other_forms_are_refused():
    with pytest.raises(UsageError, match="--constraint equality"):
        Multiplier("equality")

"""Training of a predictor by the relaxed loss within budgets; interrupted, it goes on where it was."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.lagrangian import Multiplier
from gradprobe.vlm.search.predictor import WIDTH, Counts, Predictor
from gradprobe.vlm.search.predictor_deployed import Schedules, each_deployed, schedules_deployed
from gradprobe.vlm.search.predictor_state import FEWEST, State, begun, checkpoint_of, predictor_of
from gradprobe.vlm.search.relaxed import Relaxation, relaxed_losses, whole
from gradprobe.vlm.search.search import COLDEST, SHARPEST, STEEPNESS, Progress, priced

EACH = 2  # steps for one of a search, at each of its budgets: images are learned too
LEAST_LAYERS = 3  # of two the budget alone decides what the second reads


@dataclass(frozen=True)
class Predicted:
    """Trained predictor and its schedules of the held-out images.

    Attributes:
        predictor: The predictor, of the outer iterate that was chosen.
        schedules: At each budget, ascending.
        iterates: Of each outer iterate: multipliers, violations, relaxed loss, and the deployed loss at each budget.
        seconds: Time of the training, of all its parts.
    """

    predictor: Predictor
    schedules: tuple[Schedules, ...]
    iterates: tuple[dict[str, Any], ...]
    seconds: float


def check_predictor(asked: Search) -> None:
    """Refuse a model or data with which images cannot have schedules of their own.

    Raises:
        UsageError: Too few layers or images.
    """
    if asked.task.layers < LEAST_LAYERS:
        raise UsageError(
            f"--predictor needs a language model of at least {LEAST_LAYERS} layers, and this one has "
            f"{asked.task.layers}: the budget alone decides how many tokens the last layer reads; leave --predictor out"
        )
    wanted, there = FEWEST * asked.settings.batch_size, getattr(asked.task.source, "epoch", None)
    if there is not None and there < wanted:
        raise UsageError(
            f"--predictor needs at least {FEWEST} steps of different images, {wanted} with --batch-size "
            f"{asked.settings.batch_size}, and {there} are left to train with; give more images, or a smaller "
            "--batch-size"
        )


def trained(
    asked: Search, budgets: Sequence[float], file: Path, progress: Progress = lambda done, total: None
) -> Predicted:
    """Train a predictor of schedules between the least and the greatest of some budgets.

    Each image of a step has a budget of its own in that range. The multiplier at a budget is interpolated between
    those of the budgets that are asked for.

    Args:
        asked: Model, data, selector, kernel and settings; `Search.check` and `check_predictor` have accepted them.
        budgets: Shares of the FLOPs of all visual tokens, ascending.
        file: Checkpoint, written after each outer iterate; one that is there is gone on from.
        progress: Called with (steps and measurements done, of how many).

    Returns:
        Of all outer iterates, the predictor with the least caption loss on held-out images, on average over the
        budgets, each image with tokens really dropped at its own schedule.

    Raises:
        UsageError: The checkpoint is of another training.
        GradprobeError: A loss is no finite number, or the checkpoint cannot be read or written.
    """
    settings, inner = asked.settings, EACH * asked.settings.inner * len(budgets)
    question = asked.question_at(budgets[0]) | {"budget": list(budgets), "predictor": {"width": WIDTH, "each": EACH}}
    state = begun(asked, budgets, question, file)
    total = settings.outer * (inner + 1) + 2

    def save() -> None:
        checkpoint_of(question, state).write(file)

    def step_taken(i: int) -> None:
        progress((len(state.iterates) - 1) * (inner + 1) + 2 + i, total)

    while len(state.iterates) <= settings.outer:
        started, done = time.perf_counter(), len(state.iterates)
        facts = _inner(asked, budgets, state, inner, step_taken) if done else {}
        facts["losses"] = _losses(asked, budgets, state)
        earlier = [sum(each["losses"]) for each in state.iterates]
        if sum(facts["losses"]) < min(earlier, default=float("inf")):
            state.best = {name: value.detach().clone() for name, value in state.network.state_dict().items()}
        state.iterates.append(facts)
        state.seconds += time.perf_counter() - started
        save()
        progress(done * (inner + 1) + 1, total)
    state.network.load_state_dict(state.best)
    predictor = predictor_of(asked, budgets, state.network)
    for budget in budgets[len(state.schedules) :]:
        started = time.perf_counter()
        counts = _counts(asked, predictor, budget)
        state.schedules.append(
            schedules_deployed(asked.task, asked.selector, budget, counts, asked.groups, settings.seed)
        )
        state.seconds += time.perf_counter() - started
        save()
    progress(total, total)
    return Predicted(predictor, tuple(state.schedules), tuple(state.iterates), state.seconds)


def drawn(budgets: Sequence[float], size: int, seed: int, step: int) -> Tensor:
    """Return a budget for each image of a step, ``(B,)``: spread evenly between the least and the greatest."""
    random = np.random.default_rng([seed, step])
    places = torch.from_numpy((random.permutation(size) + random.random(size)) / size)
    return budgets[0] + (budgets[-1] - budgets[0]) * places


def shares_of(drawn: Tensor, budgets: Sequence[float]) -> Tensor:
    """Return the weights of the budgets that are asked for by which each drawn one is interpolated, ``(B, M)``.

    Example:
        >>> shares_of(torch.tensor([0.3, 0.45, 0.5]), [0.3, 0.4, 0.5]).round(decimals=3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    columns = [np.interp(drawn.numpy(), budgets, column) for column in np.eye(len(budgets))]
    return torch.from_numpy(np.stack(columns, 1)).double()


def _inner(
    asked: Search, budgets: Sequence[float], state: State, inner: int, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Take the steps of an outer iterate and update the multipliers; return what there is to tell."""
    settings, spending, losses = asked.settings, asked.spending, []
    steps, number = settings.outer * inner, len(state.iterates) - 1
    predictor = predictor_of(asked, budgets, state.network)
    spent, mass = torch.zeros(len(budgets)).double(), torch.zeros(len(budgets)).double()
    for i in range(inner):
        step = number * inner + i
        way = step / max(1, steps - 1)
        steepness = STEEPNESS[0] * (STEEPNESS[1] / STEEPNESS[0]) ** way
        softness = settings.softness * (COLDEST / settings.softness) ** way
        batch, wanted = asked.step_images(step), drawn(budgets, settings.batch_size, settings.seed, step)
        numbers = predictor.numbers(batch.tokens.patches, wanted)
        shares = torch.stack([asked.kernel.shares(each, spending.layers, steepness) for each in numbers])
        counts = whole(shares * spending.tokens)
        with asked.task.running():
            relaxed = Relaxation(asked.selector, counts, (softness * counts.detach()).clamp(min=SHARPEST))
            each = relaxed_losses(asked.task, batch, relaxed, settings.seed)
        c = spending.share(counts.unbind(-1)) - wanted.to(counts.device)
        weights = shares_of(wanted, budgets).to(c)
        if step == 0:
            state.multipliers = [
                _priced(multiplier, (weight * each).sum(), (weight * c).sum(), numbers)
                for multiplier, weight in zip(state.multipliers, weights.T, strict=True)
            ]
        terms = torch.stack([multiplier.term(c) for multiplier in state.multipliers], 1)
        objective = each.mean() + (weights * terms).sum(1).mean()
        state.optimiser.zero_grad()
        objective.backward()
        gradients = [p.grad for p in state.network.parameters() if p.grad is not None]
        if not all(bool(value.isfinite().all()) for value in (objective, *gradients)):
            raise GradprobeError(
                f"the loss or its gradient is no finite number at step {step + 1} of the predictor; open the model "
                "with --dtype float32, or lower --learning-rate"
            )
        state.optimiser.step()
        losses.append(float(each.detach().mean()))
        if inner - i <= settings.inner:
            spent += (weights * c.detach()[:, None]).sum(0).cpu()
            mass += weights.sum(0).cpu()
        progress(i)
    violations = (spent / mass.clamp(min=1e-12)).tolist()
    before = state.multipliers
    state.multipliers = [
        multiplier.updated(c, spending.token) for multiplier, c in zip(before, violations, strict=True)
    ]
    return {
        "loss": sum(losses) / len(losses), "violations": violations,
        "multipliers": [each.value for each in before], "rho": [each.rho for each in before],
    }  # fmt: skip


def _priced(multiplier: Multiplier, loss: Tensor, c: Tensor, numbers: Tensor) -> Multiplier:
    """Return the multiplier that the images near a budget give; as it is where there are none."""
    (gradient,) = torch.autograd.grad(c, numbers, retain_graph=True)
    return priced(multiplier, loss, c, numbers) if float(gradient.norm()) else multiplier


def _losses(asked: Search, budgets: Sequence[float], state: State) -> list[float]:
    """Return the deployed loss of the held-out images at each budget."""
    predictor, losses = predictor_of(asked, budgets, state.network), []
    for budget in budgets:
        counts = _counts(asked, predictor, budget)
        each, _ = each_deployed(asked.task, asked.selector, counts, asked.groups, asked.settings.seed, answers=False)
        losses.append(float(each.mean()))
    return losses


def _counts(asked: Search, predictor: Predictor, budget: float) -> list[Counts]:
    return [counts for group in asked.groups for counts in predictor.counts(group.tokens.patches, budget)]

"""Search by gradient for the schedule that loses least within a budget; interrupted, it goes on where it was."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.checkpoint import Checkpoint, unreadable
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import Deployed, deployed
from gradprobe.vlm.search.lagrangian import Multiplier
from gradprobe.vlm.search.relaxed import Relaxation, relaxed_losses, whole
from gradprobe.vlm.search.repair import repaired

Counts = tuple[int, ...]
Progress = Callable[[int, int], None]  # done, of how many
STEEPNESS = (4.0, 10.0)  # of steps: a gentle one has a gradient at the layers beside it
TOLERATED = 0.1  # share of FLOPs too many at which the price has doubled
COLDEST = 0.02  # share of a layer's tokens: the last temperature
SHARPEST = 0.25  # tokens: the least temperature, at which the token behind the last one kept weighs 0.07
PLACES = (0.5, 0.35, 0.2, 0.1, 0.05, 0.02)  # relative, tried in turn where the model can spend the budget from there
TOKEN = 0.5  # of the last layer, the least that a start has


@dataclass(frozen=True)
class Found:
    """Schedule that a search chose.

    Attributes:
        budget: Share of FLOPs that was asked for.
        counts: Visual tokens that each layer reads.
        share: Share of FLOPs that they take.
        deployed: Outcome on the held-out images.
        iterates: Of each outer iterate: its multiplier, the violation, the relaxed loss and the candidates.
        seconds: Time of the search, of all its parts.
    """

    budget: float
    counts: Counts
    share: float
    deployed: Deployed
    iterates: tuple[dict[str, Any], ...]
    seconds: float


@dataclass(eq=False)
class _State:
    """Everything that the rest of a search follows from."""

    numbers: Tensor
    optimiser: torch.optim.Adam
    multiplier: Multiplier
    iterates: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[Counts, Deployed] = field(default_factory=dict)
    answered: bool = False  # True once the schedule that was chosen has been asked questions
    seconds: float = 0.0


def search(asked: Search, budget: float, file: Path, progress: Progress = lambda done, total: None) -> Found:
    """Search for the schedule of a budget.

    Args:
        asked: Model, data, selector, kernel and settings; `Search.check` has accepted them.
        budget: Share of the FLOPs of all visual tokens.
        file: Checkpoint, written after each outer iterate; one that is there is gone on from.
        progress: Called with (steps and measurements done, of how many).

    Returns:
        Of all schedules that the outer iterates stand for, repaired to whole counts within the budget, the one of the
        least caption loss on held-out images with tokens really dropped.

    Raises:
        UsageError: The checkpoint is of another search, or no schedule of the kernel has the budget.
        GradprobeError: A loss is no finite number, or the checkpoint cannot be read or written.
    """
    settings = asked.settings
    state = _state(asked, budget, file)
    total = settings.outer * (settings.inner + 1) + 1
    while len(state.iterates) <= settings.outer:
        begun = time.perf_counter()
        done = len(state.iterates)
        facts = _inner(asked, budget, state, done - 1, lambda step: progress(step, total)) if done else {}
        facts["candidates"] = [list(counts) for counts in _candidates(asked, budget, state)]
        state.iterates.append(facts)
        state.seconds += time.perf_counter() - begun
        _checkpoint(asked, budget, state).write(file)
        progress(done * (settings.inner + 1) + 1, total)
    if not state.measured:
        raise UsageError(
            f"no schedule of --kernel {asked.kernel.label} has the budget {budget:g}; give --kernel free, or a larger "
            "budget"
        )
    counts = min(state.measured, key=lambda each: (state.measured[each].loss, each))
    if not state.answered:
        begun = time.perf_counter()
        state.measured[counts] = deployed(asked.task, asked.selector, counts, asked.groups, settings.seed)
        state.answered, state.seconds = True, state.seconds + time.perf_counter() - begun
        _checkpoint(asked, budget, state).write(file)
    share = float(asked.spending.share(counts))
    return Found(budget, counts, share, state.measured[counts], tuple(state.iterates), state.seconds)


def _inner(asked: Search, budget: float, state: _State, number: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Take the steps of an outer iterate and update the multiplier; return what there is to tell."""
    settings, spending, losses, violations = asked.settings, asked.spending, [], []
    steps = settings.outer * settings.inner
    for i in range(settings.inner):
        step = number * settings.inner + i
        way = step / max(1, steps - 1)
        steepness = STEEPNESS[0] * (STEEPNESS[1] / STEEPNESS[0]) ** way
        softness = settings.softness * (COLDEST / settings.softness) ** way
        counts = whole(asked.kernel.shares(state.numbers, spending.layers, steepness) * spending.tokens)
        with asked.task.running():
            relaxed = Relaxation(asked.selector, counts, (softness * counts.detach()).clamp(min=SHARPEST))
            loss = relaxed_losses(asked.task, asked.training(step), relaxed, settings.seed).mean()
        c = spending.share(counts) - budget
        if step == 0:
            state.multiplier = priced(state.multiplier, loss, c, state.numbers)
        objective = loss + state.multiplier.term(c)
        state.optimiser.zero_grad()
        objective.backward()
        if not bool(objective.isfinite()) or not bool(state.numbers.grad.isfinite().all()):  # type: ignore[union-attr]
            raise GradprobeError(
                f"the loss or its gradient is no finite number at step {step + 1} of the search at budget {budget:g}; "
                "open the model with --dtype float32, or lower --learning-rate"
            )
        state.optimiser.step()
        losses.append(float(loss.detach()))
        violations.append(float(c.detach()))
        progress(number * (settings.inner + 1) + i + 2)
    before, state.multiplier = state.multiplier, state.multiplier.updated(violations[-1], spending.token)
    average = sum(losses) / len(losses)
    return {"loss": average, "violation": violations[-1], "multiplier": before.value, "rho": before.rho}


def _candidates(asked: Search, budget: float, state: _State) -> list[Counts]:
    """Measure the schedules that the numbers stand for, and return their counts."""
    found = []
    for shares in asked.kernel.schedules(state.numbers, asked.spending.layers):
        counts = repaired(shares, asked.spending, budget)
        if counts is not None and counts not in found:
            found.append(counts)
            if counts not in state.measured:
                outcome = deployed(asked.task, asked.selector, counts, asked.groups, asked.settings.seed, answers=False)
                state.measured[counts] = outcome
    return found


def priced(multiplier: Multiplier, loss: Tensor, c: Tensor, numbers: Tensor) -> Multiplier:
    """Return the multiplier at which a step along the constraint's gradient would neither gain nor lose.

    ``lambda = max(0, -<dL, dc> / |dc|^2)``, the least-squares estimate, and ``rho = lambda / 0.1``: a tenth of the
    FLOPs too many doubles the price. Losses of any scale are so weighed against FLOPs.

    Source: Nocedal and Wright, Numerical Optimization, section 18.3.
    """
    of_loss, of_c = (torch.autograd.grad(each, numbers, retain_graph=True)[0] for each in (loss, c))
    price = float((-(of_loss * of_c).sum() / of_c.square().sum().clamp(min=1e-12)).clamp(min=0))
    return replace(multiplier, value=price, rho=max(multiplier.rho, price / TOLERATED))


def start(asked: Search, budget: float) -> Tensor:
    """Return the kernel's numbers at which a search begins: they spend the budget.

    Places move to earlier layers where even one token behind them spends more.
    """
    spending, kernel = asked.spending, asked.kernel
    steepness = STEEPNESS[0]

    def spent(last: float, place: float) -> float:
        numbers = kernel.start(spending.layers, last, place)
        return float(spending.share(kernel.shares(numbers, spending.layers, steepness) * spending.tokens))

    low, high = TOKEN / spending.tokens, 1 - 1e-4
    place = next((place for place in PLACES if spent(low, place) <= budget), PLACES[-1])
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spent(middle, place) <= budget else (low, middle)
    return kernel.start(spending.layers, low, place)


def _state(asked: Search, budget: float, file: Path) -> _State:
    """Return the beginning of a search, or what its checkpoint holds."""
    numbers = start(asked, budget).requires_grad_(True)
    optimiser = torch.optim.Adam([numbers], lr=asked.settings.learning_rate)
    state = _State(numbers, optimiser, Multiplier(asked.settings.constraint))
    if (saved := Checkpoint.read(file)) is None:
        return state
    saved.check_config(asked.question_at(budget), file.parent)
    try:
        _restore(state, saved)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise unreadable(file, error) from None
    return state


def _restore(state: _State, saved: Checkpoint) -> None:
    """Set a state to what a checkpoint holds."""
    numbers, progress = state.numbers, saved.progress
    with torch.no_grad():
        numbers.copy_(saved.tensors["numbers"])
    moments = {name: saved.tensors[name].clone() for name in ("step", "exp_avg", "exp_avg_sq") if name in saved.tensors}
    if moments:
        state.optimiser.state[numbers] = moments
    state.multiplier = Multiplier(**progress["multiplier"])
    state.iterates = list(progress["iterates"])
    state.measured = {tuple(each["counts"]): Deployed(**each["deployed"]) for each in progress["measured"]}
    state.answered, state.seconds = progress["answered"], progress["seconds"]


def _checkpoint(asked: Search, budget: float, state: _State) -> Checkpoint:
    measured = [{"counts": list(counts), "deployed": asdict(each)} for counts, each in state.measured.items()]
    progress = {
        "multiplier": asdict(state.multiplier), "iterates": state.iterates, "measured": measured,
        "answered": state.answered, "seconds": state.seconds,
    }  # fmt: skip
    tensors = {"numbers": state.numbers, **state.optimiser.state.get(state.numbers, {})}
    return Checkpoint(asked.question_at(budget), tensors, progress)

"""State of the training of a predictor, and its checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradprobe.models.scorers import seeded
from gradprobe.training.checkpoint import Checkpoint, adamw_state, load_adamw_state, unreadable
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import Deployed
from gradprobe.vlm.search.lagrangian import Multiplier
from gradprobe.vlm.search.predictor import Network, Predictor, pooled
from gradprobe.vlm.search.predictor_deployed import Schedules
from gradprobe.vlm.search.search import start

RATE = 0.1  # share of the search's learning rate: a number is a sum over the hidden layer
FEWEST = 4  # steps whose images differ; those of the first also scale the input
SPREAD = 1e-6  # least standard deviation that an input is scaled by


@dataclass(eq=False)
class State:
    """Everything that the rest of a training follows from."""

    network: Network
    optimiser: torch.optim.Adam
    multipliers: list[Multiplier]  # of each budget that is asked for
    best: dict[str, Tensor] = field(default_factory=dict)  # network of the least deployed loss
    iterates: list[dict[str, Any]] = field(default_factory=list)
    schedules: list[Schedules] = field(default_factory=list)  # of the best, once it has been asked questions
    seconds: float = 0.0


def predictor_of(asked: Search, budgets: Sequence[float], network: Network) -> Predictor:
    """Return the predictor of a network."""
    ends = budgets[0], budgets[-1]
    return Predictor(network, asked.selector, asked.kernel, asked.spending, ends, asked.task.vlm.metadata)


def begun(asked: Search, budgets: Sequence[float], question: dict[str, Any], file: Path) -> State:
    """Return the beginning of a training, or what its checkpoint holds."""
    beginning = start(asked, (budgets[0] + budgets[-1]) / 2)
    network: Any = seeded(lambda: Network(asked.task.vlm.dim, len(beginning)), asked.settings.seed)
    with torch.no_grad():
        network.out.bias.copy_(beginning)
        inputs = torch.cat([pooled(asked.step_images(i).tokens.patches) for i in range(FEWEST)])
        network.centre.copy_(inputs.mean(0))
        network.spread.copy_(inputs.std(0, correction=0).clamp(min=SPREAD))
    network.to(asked.groups[0].tokens.patches.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE * asked.settings.learning_rate)
    state = State(network, optimiser, [Multiplier(asked.settings.constraint)] * len(budgets))
    if (saved := Checkpoint.read(file)) is None:
        return state
    saved.check_config(question, file.parent)
    try:
        _restore(state, saved)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise unreadable(file, error) from None
    return state


def _restore(state: State, saved: Checkpoint) -> None:
    """Set a state to what a checkpoint holds."""
    parts = {
        kind: {name.removeprefix(kind): value for name, value in saved.tensors.items() if name.startswith(kind)}
        for kind in ("network.", "best.")
    }
    state.network.load_state_dict(parts["network."])
    load_adamw_state(state.optimiser, state.network.named_parameters(), saved.tensors)
    state.best, progress = parts["best."], saved.progress
    state.multipliers = [Multiplier(**each) for each in progress["multipliers"]]
    state.iterates = list(progress["iterates"])
    state.schedules = [
        Schedules(each["budget"], tuple(tuple(c) for c in each["counts"]), Deployed(**each["deployed"]))
        for each in progress["schedules"]
    ]
    state.seconds = progress["seconds"]


def checkpoint_of(question: dict[str, Any], state: State) -> Checkpoint:
    """Return everything that `begun` goes on from."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    tensors |= adamw_state(state.optimiser, state.network.named_parameters())
    progress = {
        "multipliers": [asdict(each) for each in state.multipliers], "iterates": state.iterates,
        "schedules": [asdict(each) for each in state.schedules], "seconds": state.seconds,
    }  # fmt: skip
    return Checkpoint(question, tensors, progress)

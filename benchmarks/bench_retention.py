"""The time of a training step of `gradprobe retention` over its floor, and the plain loop's over ours, in one run.

The floor is what no implementation can do without, in the same micro-batches and on the same threads: the frozen
encoder's forward and activation-backward on the tokens that the operator sends, one forward and one weight-product of
the scorer, one forward and backward of the denoiser where there is one, one step of AdamW. *Plain* is the loop that one
would write: the whole batch of 32 through scorer, operator and encoder on torch's own threads, `backward`, AdamW.
Loading and embedding images is in none of them; what it costs is printed beside, for a step's batch.

    python benchmarks/bench_retention.py [--rounds 5] [--steps 4] [--models scenes scenes-vlm ...] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from bench_coherence import MODELS, OPERATORS, loaded

import gradprobe as gp
from gradprobe.core import Batch, Noise, Selection
from gradprobe.operators.temperature import at_tau
from gradprobe.training.memory import training_rows
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, in_threads, workers_for

SIZE = 32
BUDGETS = {"scenes-vlm": 11}
AIMS = {"scenes-vlm": 1.10}
K, AIM = 20, 1.15  # of the others
VLM = {"scenes-vlm": {"scorer": "transformer", "denoiser": "token"}}


@dataclass(frozen=True)
class Ready:
    """A task whose training batches are in memory already."""

    task: Any
    batches: list[Batch]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        return islice(cycle(self.batches), start, None)


def ours(task: Ready, operator: Any, k: int, recipe: Recipe, workers: int) -> float:
    fitting = ScorerTrainer(task, operator, k, "", recipe, workers)
    with task.running():
        started = time.perf_counter()
        for _ in fitting.run():
            pass
        return time.perf_counter() - started


def plain(task: Ready, operator: Any, k: int, recipe: Recipe) -> float:
    optimiser = torch.optim.AdamW(_parameters(task), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    with task.running():
        started = time.perf_counter()
        for step, batch in zip(range(recipe.steps), task.training_batches(SIZE, 0), strict=False):
            patches, noise = batch.tokens.patches, Noise(0, batch.ids).draw(step + 1)
            selection = at_tau(operator, recipe.tau(step))(patches, task.scorer(patches), k, noise=noise)
            if task.denoiser is not None:
                selection = replace(selection, tokens=task.denoiser(selection.tokens))
            optimiser.zero_grad()
            task.losses(selection, batch).mean().backward()
            optimiser.step()
        return time.perf_counter() - started


def floor(task: Ready, operator: Any, k: int, recipe: Recipe, workers: int) -> float:
    parameters, own = _parameters(task), list(task.scorer.parameters())
    behind = parameters[len(own) :]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = islice(task.training_batches(SIZE, 0), recipe.steps)
    steps = [groups_of(batch, training_rows(batch.tokens.patches)) for batch in batches]
    sent = [
        [_sent(task, operator, k, recipe.tau(step), group) for group in groups] for step, groups in enumerate(steps)
    ]

    def work(pair: tuple[Batch, Selection]) -> tuple[torch.Tensor, ...]:
        batch, selection = pair
        leaf = selection.tokens if selection.key_bias is None else selection.key_bias
        leaf.requires_grad_()
        torch.autograd.grad(task.losses(selection, batch).sum(), leaf)
        scores = task.scorer(batch.tokens.patches)
        found = torch.autograd.grad(scores, own, torch.ones_like(scores))
        if task.denoiser is None:
            return found
        out = task.denoiser(selection.tokens)
        through = [leaf] if leaf is selection.tokens else []
        return found + torch.autograd.grad(out, [*through, *behind], torch.ones_like(out))[len(through) :]

    with task.running():
        started = time.perf_counter()
        for groups, selections in zip(steps, sent, strict=True):
            gradients = list(in_threads(work, zip(groups, selections, strict=True), workers))[-1]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            optimiser.zero_grad()
        return time.perf_counter() - started


def _parameters(task: Ready) -> list[torch.nn.Parameter]:
    return [*task.scorer.parameters(), *([] if task.denoiser is None else task.denoiser.parameters())]


def _sent(task: Ready, operator: Any, k: int, tau: float, batch: Batch) -> Selection:
    """Return the tokens that the operator sends, without their graph."""
    with torch.no_grad():
        patches = batch.tokens.patches
        sent = at_tau(operator, tau)(patches, task.scorer(patches), k, noise=Noise(0, batch.ids))
    return replace(sent, tokens=sent.tokens.clone())


def embedding(task: Any) -> float:
    started = time.perf_counter()
    next(iter(task.batches(1, SIZE, 0)))
    return time.perf_counter() - started


def measured(name: str, task: Ready, op: str, recipe: Recipe, rounds: int) -> dict[str, Any]:
    """Median milliseconds a step of the three, and of their ratios within a round."""
    operator, workers, k, aim = gp.build(op), workers_for(task), BUDGETS.get(name, K), AIMS.get(name, AIM)
    state = [parameter.detach().clone() for parameter in _parameters(task)]
    asked: dict[str, Callable[[], float]] = {
        "floor": lambda: floor(task, operator, k, recipe, workers),
        "ours": lambda: ours(task, operator, k, recipe, workers),
        "plain": lambda: plain(task, operator, k, recipe),
    }
    times: dict[str, list[float]] = {what: [] for what in asked}
    for round_ in range(rounds + 1):  # the first one warms up
        for what, run in asked.items():
            for parameter, value in zip(_parameters(task), state, strict=True):
                parameter.data.copy_(value)
            seconds = run()
            if round_:
                times[what].append(1000 * seconds / recipe.steps)
    over = [a / b for a, b in zip(times["ours"], times["floor"], strict=True)]
    against = [a / b for a, b in zip(times["plain"], times["ours"], strict=True)]
    return {
        "model": name, "op": op, **{f"{what}_ms": statistics.median(found) for what, found in times.items()},
        "over_floor": statistics.median(over), "over_floor_min": min(over), "over_floor_max": max(over),
        "plain_over_ours": statistics.median(against), "aim": aim, "met": statistics.median(over) <= aim,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--models", nargs="+", default=[*MODELS, *VLM], choices=[*MODELS, *VLM])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": []}
    recipe = Recipe(steps=asked.steps, batch_size=SIZE)
    print(f"{'model':24}{'operator':10}{'floor ms':>10}{'ours ms':>10}{'plain ms':>10}{'ours/floor':>12}", end="")
    print(f"{'min':>6}{'max':>6}{'plain/ours':>12}")
    for name in asked.models:
        if name in VLM:
            made = gp.vlm.captioning(name, **VLM[name])
            task = Ready(made, list(islice(made.training_batches(SIZE, 0), 2)))
        else:
            source = loaded(name, MODELS[name], 2, SIZE)
            task = Ready(source.task, source.ready)
        for op in OPERATORS:
            row = measured(name, task, op, recipe, asked.rounds)
            report["rows"].append(row)
            print(f"{name:24}{op:10}{row['floor_ms']:10.1f}{row['ours_ms']:10.1f}{row['plain_ms']:10.1f}", end="")
            print(f"{row['over_floor']:12.3f}{row['over_floor_min']:6.2f}{row['over_floor_max']:6.2f}", end="")
            print(f"{row['plain_over_ours']:12.2f}   {'met' if row['met'] else 'missed'}: {row['aim']}", flush=True)
        if name == "scenes":
            print(f"{name:24}embedding a step's batch takes {1000 * embedding(source.task):.0f} ms")
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

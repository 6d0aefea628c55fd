"""The time of training several scorers side by side over that of training them one after another, in one run.

Both take the same steps of the same seeds through one frozen model; batches are in memory. On a CPU there is nothing to
gain (the micro-batches are as large), so the aim is not to lose; on a GPU one training of a small model does not fill
the device.

    python benchmarks/bench_side_by_side.py [--device cpu] [--seeds 4] [--steps 4] [--rounds 5] [--json FILE]
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from bench_retention import Ready

import gradprobe as gp
from gradprobe.deferred import deferring
from gradprobe.training.joined import Joined
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import workers_for

OPERATORS = ("vpnoise", "gumbel")
BUDGETS = {"scenes": 20, "scenes-vlm": 11}
AIM = 1.0


def timed(trainers: list[ScorerTrainer], task: Any, device: torch.device) -> float:
    started = time.perf_counter()
    with task.running(), deferring():
        for trainer in trainers:
            for _ in trainer.run():
                pass
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measured(name: str, op: str, given: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of both, and the median of their ratio within a round."""
    make = gp.vlm.captioning if name == "scenes-vlm" else gp.classification
    task, k, operator = make(name, device=given.device), BUDGETS[name], gp.build(op)
    seeds, recipe = tuple(range(1, given.seeds + 1)), Recipe(steps=given.steps)
    batches = {seed: list(islice(task.training_batches(recipe.batch_size, seed), given.steps)) for seed in seeds}

    def fresh() -> list[Ready]:
        return [Ready(task.with_new_scorer(seed), batches[seed]) for seed in seeds]

    times: dict[str, list[float]] = {"apart": [], "together": []}
    workers, device = workers_for(task), torch.device(given.device)
    for turn in range(given.rounds + 1):  # the first one warms up
        single = [
            ScorerTrainer(each, operator, k, op, replace(recipe, seed=seed), workers)
            for each, seed in zip(fresh(), seeds, strict=True)
        ]
        joined = Joined(tuple(fresh()), seeds, (k,) * len(seeds))
        joint = [ScorerTrainer(joined, operator, k, op, recipe, workers)]
        for way, trainers in {"apart": single, "together": joint}.items():
            seconds = timed(trainers, task, device)
            if turn:
                times[way].append(seconds)
    ratio = statistics.median(t / a for t, a in zip(times["together"], times["apart"], strict=True))
    row = {f"{way}_s": statistics.median(values) for way, values in times.items()}
    return {"model": name, "op": op, **row, "ratio": ratio, "aim": AIM, "met": ratio <= AIM}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": []}
    print(f"{given.seeds} seeds, {given.steps} steps of 32 images, {given.device}")
    print(f"{'model':12}{'operator':10}{'apart s':>10}{'together s':>12}{'together/apart':>16}")
    for name in BUDGETS:
        for op in OPERATORS:
            row = measured(name, op, given)
            report["rows"].append(row)
            print(f"{name:12}{op:10}{row['apart_s']:10.2f}{row['together_s']:12.2f}{row['ratio']:16.3f}", end="")
            print(f"   {'met' if row['met'] else 'missed'}: {AIM}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The time of testing selectors without training, all questions of one run together, over the pass that none avoids.

The floor is one bare pass of the frozen model over all N tokens of the test images, the answer that every retention is
divided by. *Together* are all questions in one run, which measures that pass once; *apart* asks each in a run of its
own. Pictures are made and embedded before all three.

    python benchmarks/bench_rankings.py [--rounds 5] [--images 256] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gradprobe as gp
from gradprobe.core import Selection
from gradprobe.probes.contract import Ranking, Resources, Subject
from gradprobe.probes.retention import RetentionSettings
from gradprobe.probes.retention.measure import measure
from gradprobe.training.workers import groups_of, in_threads, workers_for

NAMES = ("random", "norm", "mean-attention", "divprune")
MODELS = {"scenes": (5, 20), "photos-vlm": (11, 33)}
AIM = 0.6  # of the time apart


def floor(task: Any, images: int) -> None:
    (test,) = task.batches(1, images, 1)

    def read(batch: Any) -> torch.Tensor:
        with torch.no_grad():
            patches = batch.tokens.patches
            return task.ranks(Selection(patches, torch.ones(patches.shape[:2])), batch)

    with task.running():
        list(in_threads(read, groups_of(test), workers_for(task)))


def questions(task: Any, budgets: tuple[int, ...], images: int, known: dict[str, Any] | None) -> None:
    for name in NAMES:
        for k in budgets:
            resources = Resources() if known is None else Resources(known=known)
            measure(Subject(task, Ranking(name), k), RetentionSettings(steps=0, images=images, seed=1), resources)


def measured(name: str, images: int, rounds: int) -> dict[str, Any]:
    task: Any = gp.classification(name) if name == "scenes" else gp.vlm.captioning(name)
    budgets = MODELS[name]
    asked: dict[str, Callable[[], None]] = {
        "floor": lambda: floor(task, images),
        "together": lambda: questions(task, budgets, images, {}),
        "apart": lambda: questions(task, budgets, images, None),
    }
    times: dict[str, list[float]] = {what: [] for what in asked}
    for round_ in range(rounds + 1):  # the first one warms up
        for what, run in asked.items():
            started = time.perf_counter()
            run()
            if round_:
                times[what].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(times["together"], times["apart"], strict=True)]
    over = [a / b for a, b in zip(times["together"], times["floor"], strict=True)]
    return {
        "model": name, "questions": len(NAMES) * len(budgets),
        **{f"{what}_s": statistics.median(each) for what, each in times.items()},
        "over_floor": statistics.median(over), "over_apart": statistics.median(ratios),
        "over_apart_min": min(ratios), "over_apart_max": max(ratios),
        "aim": AIM, "met": statistics.median(ratios) <= AIM,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for name in MODELS:
        rows.append(row := measured(name, asked.images, asked.rounds))
        print(
            f"{name:12}{row['questions']} questions  floor {row['floor_s']:.2f} s  together {row['together_s']:.2f} s",
            end="",
        )
        print(f"  apart {row['apart_s']:.2f} s  together/floor {row['over_floor']:.2f}", end="")
        print(
            f"  together/apart {row['over_apart']:.3f} ({row['over_apart_min']:.2f}-{row['over_apart_max']:.2f})",
            end="",
        )
        print(f"   {'met' if row['met'] else 'missed'}: {row['aim']}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

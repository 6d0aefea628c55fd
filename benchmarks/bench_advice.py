"""The operator that `gradprobe advise` names, and its time, against training every operator of the leaderboard.

The aims: what it names retains within 0.02 of the best of all that experiments/leaderboard.toml trains, by the stored
answers of that preset (mean over the seeds that are there), in at most a tenth of the time of training all of them with
five seeds. The seconds of both are those noted in the answers; on a machine that other work shares they say little. An
operator is matched by its name, whatever its temperatures: the leaderboard trains all with tau from 2.0 to 0.1.

    python benchmarks/bench_advice.py [--models scenes deit] [--budget SECONDS] [--stores results runs] [--json FILE]
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import gradprobe as gp
from gradprobe.advice.advice import Advice
from gradprobe.comparison.experiments import load_experiment
from gradprobe.operators.temperature import family
from gradprobe.probes.ask import stored
from gradprobe.store.results import Store

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("GRADPROBE_ASSETS", ROOT.parent / "shared" / "assets"))
NEAR, TENTH, SEEDS = 0.02, 0.1, 5
MODELS: dict[str, dict[str, Any]] = {
    "scenes": {"k": 5, "backbone": "scenes"},
    "deit": {
        "k": 58, "backbone": "deit_tiny_patch16_224",
        "weights": str(ASSETS / "deit_tiny_patch16_224" / "model.safetensors"),
        "data": str(ASSETS / "imagenette" / "val"), "train_data": str(ASSETS / "imagenette" / "train"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Board:
    """Trainings of the leaderboard on one model.

    Attributes:
        retention: mean of each operator over the seeds that are stored.
        seconds: of training all operators with one seed; those without an answer count as the mean of the others.
        there: number of answers that are stored, and of all that the preset asks for.
    """

    retention: dict[str, float]
    seconds: float
    there: tuple[int, int]


def board(backbone: str, k: int, stores: list[Store]) -> Board:
    runs = [
        run.question
        for run in load_experiment(ROOT / "experiments" / "leaderboard.toml").runs
        if run.question["probe"] == "retention" and (run.question["backbone"], run.question["k"]) == (backbone, k)
    ]
    results: dict[str, list[Any]] = {}
    for question in runs:
        if (answer := stored(question, stores)) is not None:
            results.setdefault(question["op"], []).append(answer.result)
    retention = {op: fmean(r.row()["retention"] for r in each) for op, each in results.items()}
    each_op = [fmean(r.environment["seconds"] for r in each) for each in results.values()]
    seconds = fmean(each_op) * len({question["op"] for question in runs}) if each_op else 0.0
    return Board(retention, seconds, (sum(map(len, results.values())), len(runs)))


def compared(advice: Advice, all_of: Board, wall: float) -> dict[str, Any]:
    """Set an advice beside the leaderboard; None where the leaderboard lacks the operator."""
    best = max(all_of.retention, key=all_of.retention.__getitem__)
    own = {family(op): value for op, value in all_of.retention.items()}.get(family(advice.op))
    spent = advice.seconds["spent"]
    return {
        "named": advice.op, "tau": advice.tau, "retention": own, "best": best, "best_retention": all_of.retention[best],
        "gap": None if own is None else all_of.retention[best] - own, "expected": advice.expected, "spent": spent,
        "wall": wall, "stored": all_of.there, "one_seed": all_of.seconds, "five_seeds": SEEDS * all_of.seconds,
        "share": spent / (SEEDS * all_of.seconds), "share_of_one_seed": spent / all_of.seconds,
    }  # fmt: skip


def told(name: str, row: dict[str, Any]) -> list[str]:
    own, gap = row["retention"], row["gap"]
    near = "not on the leaderboard" if gap is None else f"retains {own:.3f}, {gap:.3f} below the best"
    met = "unknown" if gap is None else "met" if gap <= NEAR else "MISSED"
    paid = "met" if row["share"] <= TENTH else "MISSED"
    have, of = row["stored"]
    return [
        f"{name}: {row['named']} (tau {row['tau']}) {near} ({row['best']}, {row['best_retention']:.3f}); "
        f"aim {NEAR}: {met}; {have} of {of} trainings of the leaderboard are stored",
        f"  {row['spent']:.0f} s ({row['wall']:.0f} s on the clock) against {row['five_seeds']:.0f} s for all with "
        f"{SEEDS} seeds: {row['share']:.3f}, aim {TENTH}: {paid}; of one seed each {row['share_of_one_seed']:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--budget", type=float, help="Seconds; default: the tenth.")
    parser.add_argument(
        "--stores", nargs="+", default=["results", "runs"], help="Folders with the leaderboard's answers."
    )
    parser.add_argument("--results", help="Folder of the advice's answers; default: a new one, so that all is trained.")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = {}
    for name in asked.models:
        model = MODELS[name]
        if "weights" in model and not Path(model["weights"]).is_file():
            print(f"{name}: no weights at {model['weights']}; set GRADPROBE_ASSETS")
            continue
        all_of = board(model["backbone"], model["k"], [Store(folder) for folder in asked.stores])
        if not all_of.retention:
            print(f"{name}: none of the leaderboard's {all_of.there[1]} trainings is stored; run gradprobe leaderboard")
            continue
        budget = asked.budget or TENTH * SEEDS * all_of.seconds
        with tempfile.TemporaryDirectory() as fresh:
            started = time.perf_counter()
            advice = gp.advise(**model, budget=budget, results=asked.results or fresh)
            rows[name] = compared(advice, all_of, time.perf_counter() - started)
        print("\n".join(told(name, rows[name])), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

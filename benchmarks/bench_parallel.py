"""Seconds of the leaderboard's questions with two processes, over those of one process, in one run.

Trainings of a few operators on the scenes (K = 5), the same questions each time, into a new folder: one after another
on one thread, one after another on torch's own threads, and with ``--jobs``. Then the driver's overhead: questions that
take no time, with their model open, as a share of a question of 10 s.

    python benchmarks/bench_parallel.py [--steps 20] [--operators 4] [--jobs 2] [--rounds 1] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gradprobe.operators import registry
from gradprobe.parallel.driver import Asked, Crew, answer_all
from gradprobe.parallel.pools import cores
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Resources
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.store.results import Store

AIM, SHARE, QUESTION = 1.8, 0.01, 10.0
OPERATORS = (
    "lapsum+vpnoise",
    "gumbel-ste+gather",
    "lapsum+scale",
    "gumbel-softmax+gather",
    "sigmoid+scale",
    "softsort+scale",
)
SCENES = {
    "layer": 0, "loss": "ce", "dtype": "float32", "scorer": "mlp", "k": 5, "backbone": "scenes", "data": "scenes",
    "weights": "sha256:ec291f87e24113c1",
}  # fmt: skip
EMPTY = """
from dataclasses import dataclass
import numpy as np
from gradprobe.probes.contract import Probe, question_of
from gradprobe.settings import setting

@dataclass(frozen=True, kw_only=True)
class Settings:
    number: int = setting(0, "Number of the question.")

@dataclass(frozen=True)
class Result:
    question: dict
    environment: dict
    numbers: np.ndarray
    probe = "empty"

def measure(subject, settings, resources):
    return Result(question_of(PROBE, subject, settings), {}, np.zeros(1))

PROBE = Probe(name="empty", about="Nothing.", settings=Settings, measure=measure, result=Result, view=None)
"""


def trainings(operators: int, steps: int) -> list[Asked]:
    recipe = {"steps": steps, "images": 1000, "batch_size": 32, "learning_rate": 0.001, "weight_decay": 0.01}
    recipe |= {"probe": "retention", "tau_start": 2.0, "tau_end": 0.1, "seed": 1}
    return [Asked(SCENES | recipe | {"op": op}) for op in OPERATORS[:operators]]


def serial(asked: Sequence[Asked], threads: int) -> float:
    """Seconds of asking one after another."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        started, tasks = time.perf_counter(), OpenTasks()
        for each in asked:
            answered(each.question, each.where, [Store(folder)], tasks, Resources(workers=threads))
        return time.perf_counter() - started


def parallel(asked: Sequence[Asked], jobs: int) -> float:
    """Seconds of asking a crew."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        if reasons := answer_all(asked, [Store(folder)], Crew(jobs)):
            raise RuntimeError(str(reasons))
        return time.perf_counter() - started


def overhead(count: int, jobs: int) -> tuple[float, float]:
    """Seconds a question that takes no time, with an open model: of a worker of a crew, and without a crew."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.py"
        file.write_text(EMPTY)
        probe = probe_of(f"{file}:PROBE")
        own = SCENES | {"probe": "empty", "op": "lapsum+vpnoise", "probe_code": registry.code_of(probe.measure)}
        every = [Asked(own | {"number": number}) for number in range(count + 2 * jobs)]
        ends: list[float] = []
        tasks, alone = OpenTasks(), Store(Path(folder) / "alone")
        answered(every[0].question, {}, [alone], tasks)
        started = time.perf_counter()
        for each in every[1 : count + 1]:
            answered(each.question, {}, [alone], tasks)
        without = (time.perf_counter() - started) / count

        def progress(description: str, done: int, total: int) -> None:
            if not hasattr(description, "line"):
                ends.append(time.perf_counter())

        if reasons := answer_all(every, [Store(folder)], Crew(jobs), progress):
            raise RuntimeError(str(reasons))
        return jobs * (ends[-2] - ends[-2 - count]) / count, without  # the last one ends the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--operators", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    asked = trainings(given.operators, given.steps)
    kinds = {
        "serial, 1 thread": lambda: serial(asked, 1),
        f"serial, {cores()} threads": lambda: serial(asked, cores()),
        f"--jobs {given.jobs}": lambda: parallel(asked, given.jobs),
    }
    parallel(asked[: given.jobs], given.jobs)  # starts the processes, which stay
    rounds = [{kind: work() for kind, work in kinds.items()} for _ in range(given.rounds)]
    seconds = {kind: statistics.median(each[kind] for each in rounds) for kind in kinds}
    many = f"--jobs {given.jobs}"
    ratios = {kind: statistics.median(each[kind] / each[many] for each in rounds) for kind in kinds if kind != many}
    for kind, value in seconds.items():
        times = f"  {ratios[kind]:.2f} times {many} (aim {AIM})" if kind in ratios else ""
        print(f"{kind:20} {value:7.1f} s{times}")
    each, without = overhead(30, given.jobs)
    share = f"{100 * (each - without) / QUESTION:.2f} % of a question of {QUESTION:g} s (aim {100 * SHARE:g} %)"
    print(f"an empty question takes {1000 * each:.0f} ms of a worker, {1000 * without:.0f} ms without a crew: {share}")
    if given.json:
        numbers = {
            "seconds": seconds,
            "ratios": ratios,
            "overhead": each,
            "questions": len(asked),
            "steps": given.steps,
        }
        given.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()

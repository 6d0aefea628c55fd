"""One benchmark through lmms-eval's ``simple_evaluate``."""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.vlm.evaluation.benchmarks import Benchmark
from gradprobe.vlm.evaluation.generation import Answering
from gradprobe.vlm.evaluation.installed import lmms_eval_module
from gradprobe.vlm.evaluation.log import Log
from gradprobe.vlm.evaluation.prepared import YAMLS


@dataclass(frozen=True)
class Graded:
    """Graded samples of a benchmark.

    Attributes:
        samples: In the order of the data set, as lmms-eval logs them.
        score: Sum of the benchmark's metrics, as lmms-eval aggregates them.
    """

    samples: Sequence[Mapping[str, Any]]
    score: float


def graded(answering: Answering, benchmark: Benchmark, folder: Path, log: Log, limit: int | None = None) -> Graded:
    """Answer and grade a prepared benchmark.

    Args:
        answering: The model.
        benchmark: The benchmark.
        folder: Its data set.
        log: Log of the answers.
        limit: Number of samples; None: all.

    Raises:
        GradprobeError: lmms-eval is not installed, or does not score the benchmark.
    """
    evaluator = lmms_eval_module("lmms_eval.evaluator")
    tasks = lmms_eval_module("lmms_eval.tasks")
    model = lmms_eval_module("gradprobe.vlm.evaluation.lmms_model").GradprobeVLM(answering, log)
    with tempfile.TemporaryDirectory() as scratch, _quiet(evaluator):
        manager = tasks.TaskManager(include_path=str(YAMLS), include_defaults=False)
        results = evaluator.simple_evaluate(
            model=model,
            tasks=[{"task": benchmark.task, "dataset_path": str(folder)}],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            process_docs_parallel=1,
            cli_args=argparse.Namespace(process_with_media=False, output_path=scratch, tasks=benchmark.task),
        )
    scores = results["results"][benchmark.task]
    lacking = [metric for metric in benchmark.metrics if f"{metric},none" not in scores]
    if lacking:
        raise GradprobeError(f"lmms-eval gives no {', '.join(lacking)} for {benchmark.name}; update it, or gradprobe")
    samples = sorted(results["samples"][benchmark.task], key=lambda sample: sample["doc_id"])
    return Graded(samples, float(sum(scores[f"{metric},none"] for metric in benchmark.metrics)))


@contextlib.contextmanager
def _quiet(evaluator: Any) -> Any:
    """Hide the messages and the bars of lmms-eval; its errors are raised."""
    logger = evaluator.eval_logger
    logger.disable("lmms_eval")
    bars = [(module, module.tqdm) for module in (evaluator, lmms_eval_module("lmms_eval.api.task"))]
    for module, bar in bars:
        module.tqdm = _hidden(bar)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for module, bar in bars:
            module.tqdm = bar
        logger.enable("lmms_eval")


def _hidden(bar: Any) -> Any:
    def make(*values: Any, **named: Any) -> Any:
        return bar(*values, **{**named, "disable": True})

    return make

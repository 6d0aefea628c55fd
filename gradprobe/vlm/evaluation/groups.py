"""Samples that are scored together: the two questions of an MME picture, and MMBench's circular questions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

from gradprobe.errors import GradprobeError
from gradprobe.vlm.evaluation.benchmarks import MME_CATEGORIES, Benchmark

Samples = Sequence[Mapping[str, Any]]  # as lmms-eval grades them


def units_of(benchmark: Benchmark, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the units ``(U,)``, ascending, and the parts of each ``(U, V)``.

    Args:
        benchmark: That the samples are of.
        samples: Graded samples, each with its ``doc``, whose ``unit`` says what is scored together.
    """
    together: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        together[int(sample["doc"]["unit"])].append(sample)
    units = sorted(together)
    groups = {"mme": _mme, "mmbench_en": _mmbench, "mmbench_cn": _mmbench}.get(benchmark.name)
    if groups is not None:
        parts = [groups(together[unit]) for unit in units]
    else:
        parts = [_one(benchmark, together[unit]) for unit in units]
    return np.array(units, np.int64), np.array(parts, np.float64)


def _one(benchmark: Benchmark, samples: Samples) -> tuple[float, ...]:
    (sample,) = samples
    assert benchmark.parts is not None
    return benchmark.parts(sample)


def _mme(samples: Samples) -> tuple[float, ...]:
    """Return 100 (accuracy + both right) and 1 in the places of its category."""
    grades = [sample.get("mme_perception_score") or sample["mme_cognition_score"] for sample in samples]
    if len(grades) != 2:
        raise GradprobeError(f"a picture of MME has {len(grades)} questions, not 2; prepare the benchmark again")
    right = sum(grade["score"] for grade in grades)
    numbers = [0.0] * (2 * len(MME_CATEGORIES))
    place = 2 * MME_CATEGORIES.index(grades[0]["category"])
    numbers[place : place + 2] = 50.0 * right + 100.0 * (right == 2), 1.0
    return tuple(numbers)


def _mmbench(samples: Samples) -> tuple[float, ...]:
    """Return 1 if lmms-eval finds all versions of a circular question right, without asking another model."""
    from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

    rows = [dict(sample["gpt_eval_score"]) for sample in samples]
    first = min(row["index"] for row in rows)
    for row in rows:  # the evaluator looks for one with an index below a million
        row["index"] = row["index"] - first + first % 1_000_000
    with redirect_stdout(StringIO()):
        overall, *_ = mmbench_evaluator.eval_result(rows, eval_method="static")
    return float(overall), 1.0

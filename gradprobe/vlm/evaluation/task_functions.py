"""Functions named by the YAML files of the benchmarks, where lmms-eval has none that reads a folder offline."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any


def picture(doc: Mapping[str, Any]) -> list[Any]:
    """Return the picture of a document, in a list; none for one without."""
    return [doc["image"].convert("RGB")] if doc["image"] is not None else []


def mmbench_static(results: Sequence[Mapping[str, Any]], args: Any = None) -> float:
    """Return the accuracy of MMBench, in percent, with letters read from the answers by rule; no file is written.

    Args:
        results: Graded documents.
        args: Options of lmms-eval, of which none is needed.
    """
    from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

    with redirect_stdout(StringIO()):
        overall, *_ = mmbench_evaluator.eval_result([dict(each) for each in results], eval_method="static")
    return float(overall) * 100

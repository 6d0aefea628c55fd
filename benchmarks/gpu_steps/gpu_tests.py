"""Tests of `tests/gpu`, in a process of their own, so that a fault of the device ends them alone."""

import math
import os
import re
import subprocess
import sys
from typing import Any

import torch

from gpu_steps.report import Report
from gpu_steps.step import ROOT, Setup
from gradprobe.errors import GradprobeError

COUNT = re.compile(r"(\d+) (passed|failed|skipped|error|errors|xfailed)\b")
TAIL = 6000  # characters of the output that are kept of a failure


def settings(setup: Setup) -> dict[str, Any]:
    """Return what is run."""
    return {"tests": "tests/gpu/test_gpu_operators.py" if setup.tiny else "tests/gpu"}


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Run the tests and count them.

    Raises:
        GradprobeError: Some failed, none passed, or they did not end in time.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "--durations=5", settings["tests"]]
    environment = os.environ | {"GRADPROBE_TEST_DEVICE": setup.device}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    report.rows.clear()  # of an earlier run, which did not pass
    limit = None if math.isinf(report.left) else report.left
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=limit, cwd=ROOT, check=False
        )
    except subprocess.TimeoutExpired as error:
        report.row({"output": _text(error.stdout)})
        raise GradprobeError(f"the tests had not ended after {report.seconds:.0f} s") from None
    counts = counted(ended.stdout)
    good = ended.returncode == 0 and counts["passed"] > 0
    output = ended.stdout + ended.stderr
    report.row(counts | {"exit": ended.returncode, "output": output[-(TAIL if not good else 800) :]})
    report.line(
        "tests", ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "none", "all pass", good
    )
    if not good:
        print(output[-TAIL:])
        raise GradprobeError(
            f"{counts['failed']} of the GPU tests failed, {counts['passed']} passed; the output is in {report.path}"
        )


def counted(output: str) -> dict[str, int]:
    """Return the numbers of the last line of pytest.

    Example:
        >>> counted("1 failed, 2 passed, 4 skipped in 0.1s")
        {'passed': 2, 'failed': 1, 'skipped': 4}
    """
    last = output.strip().splitlines()[-1] if output.strip() else ""
    numbers = {what.rstrip("s") if what == "errors" else what: int(number) for number, what in COUNT.findall(last)}
    failed = numbers.get("failed", 0) + numbers.get("error", 0)
    return {"passed": numbers.get("passed", 0), "failed": failed, "skipped": numbers.get("skipped", 0)}


def _text(output: Any) -> str:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return text[-TAIL:]

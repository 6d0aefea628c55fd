"""Table 4: milliseconds up to the first token, by part, with random weights of LLaVA-1.5-7B's shape."""

import tempfile
from contextlib import ExitStack
from typing import Any

from gpu_steps.machine import clear
from gpu_steps.report import Report
from gpu_steps.step import Setup
from gpu_steps.tiny_llava import SCORER as TINY_SCORER
from gpu_steps.tiny_llava import config as tiny_config
from gradprobe.vlm.costs.flops import SCORER, TEXT, cost

MODEL = "llava-hf/llava-1.5-7b-hf"
PRUNER, PREFILL = 0.69, 2.85  # ms, and times faster: Table 4 at K = 64
STRONGEST = 64


def settings(setup: Setup) -> dict[str, Any]:
    """Return model, budgets and precisions."""
    if setup.tiny:
        return {
            "model": "two layers",
            "k": (4, 2),
            "dtypes": ("bfloat16", "float16"),
            "passes": 6,
            "scorer": TINY_SCORER,
        }
    sizes = {"k": (192, 128, STRONGEST), "dtypes": ("bfloat16", "float16"), "passes": 30}
    return {"model": MODEL, **sizes, "scorer": SCORER, "text_tokens": TEXT}


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Time the parts in each precision."""
    with ExitStack() as stack:
        model = settings["model"]
        if setup.tiny:
            model = stack.enter_context(tempfile.TemporaryDirectory())
            tiny_config().save_pretrained(model)
        counted = cost(model, k=settings["k"], text_tokens=TEXT, scorer=settings["scorer"])
        for dtype in settings["dtypes"]:
            if report.has(dtype=dtype) or report.over(f"Table 4 in {dtype}"):
                continue
            measured = counted.measured(setup.device, settings["passes"], dtype)
            for row in measured.rows():
                report.row({"dtype": dtype, **row})
            clear(setup.device)
    for dtype in settings["dtypes"]:
        _lines(report, dtype)


def _lines(report: Report, dtype: str) -> None:
    rows = [row for row in report.rows if row["dtype"] == dtype]
    for row in rows:
        ms = row["measured"]
        kept = f"K = {row['kept']}" if row["pruned"] else f"all {row['kept']}"
        parts = ", ".join(f"{name} {ms[name.lower()]:.2f}" for name in ("encoder", "pruner", "prefill", "TTFT"))
        report.line(f"{dtype}, {kept}", f"{parts} ms")
    if rows:
        ms = rows[-1]["measured"]
        low, high = ms["prefill_speedup_low"], ms["prefill_speedup_high"]
        report.line(f"{dtype}, pruner", f"{ms['pruner']:.3f} ms", f"at most {PRUNER} ms", ms["pruner"] <= PRUNER)
        speedup = f"{ms['prefill_speedup']:.2f} [{low:.2f}, {high:.2f}] times faster"
        report.line(f"{dtype}, prefill", speedup, f"at least {PREFILL}", ms["prefill_speedup"] >= PREFILL)

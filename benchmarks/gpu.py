"""Campaign on a GPU: tests, times and tables that need one, in ten minutes and without a network.

Steps run in the order of their worth, each within its bound; each writes a JSON file whenever it has measured
something, and a run that is repeated goes on where the last one ended. `docs/gpu.md` says what to expect.

    python benchmarks/gpu.py [--device cuda] [--out gpu-results] [--only a,c] [--budget 480]
    python benchmarks/gpu.py --device cpu --tiny     # a rehearsal: all steps, least sizes, nothing measured
"""

import argparse
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from gpu_steps import STEPS
from gpu_steps.campaign import FAILED, Outcome, chosen, run
from gpu_steps.step import ROOT, SAMPLE, TEST, TRAIN, WEIGHTS, Setup

from gradprobe.devices import device_named
from gradprobe.errors import Notice, UsageError

PACKED = ROOT / "gpu-assets"  # what benchmarks/gpu_pack.py writes


def main(arguments: list[str] | None = None) -> int:
    began = time.monotonic()
    given = _parser().parse_args(arguments)
    warnings.simplefilter("ignore", Notice)
    try:
        if not given.budget > 0:
            raise UsageError(f"--budget {given.budget:g} is not possible; give seconds, e.g. --budget 480")
        steps = chosen(STEPS, given.only)
        if given.device == "cpu" and not given.tiny:
            raise UsageError("--device cpu goes with --tiny: the sizes of a GPU take hours on a CPU")
        device_named(given.device, hint="to rehearse without a GPU: --device cpu --tiny")
        given.out.mkdir(parents=True, exist_ok=True)
    except (UsageError, OSError) as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    if given.device == "cpu" and given.tiny:
        torch.set_num_threads(1)  # threads that wait for each other take most of the time of small tensors
    setup = Setup(given.device, given.tiny, given.out, _assets())
    outcomes = run(steps, setup, given.budget, lambda text: print(text, flush=True))
    _show(outcomes)
    code = int(any(outcome.status == FAILED for outcome in outcomes))
    rest = steps[len(outcomes) :]
    if rest:  # the device is broken in this process, and whole in a new one
        left = max(1, given.budget - (time.monotonic() - began))
        options = ["--device", given.device, "--out", str(given.out), "--budget", f"{left:.0f}"]
        options += ["--only", ",".join(step.letter for step in rest)] + ["--tiny"] * given.tiny
        code = max(code, subprocess.run([sys.executable, __file__, *options], check=False).returncode)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="least sizes: shows that all runs, measures nothing")
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=ROOT / "gpu-results", help="folder")
    parser.add_argument("--only", help=f"some of the steps: {', '.join(f'{s.letter} ({s.about})' for s in STEPS)}")
    parser.add_argument("--budget", type=float, default=480, help="seconds in all")
    return parser


def _assets() -> Path | None:
    """Return the folder of real weights and pictures: the packed one, or that of GRADPROBE_ASSETS."""
    named = os.environ.get("GRADPROBE_ASSETS")
    folders = [PACKED] + ([Path(named)] if named else [])
    return next(
        (each for each in folders if all((each / name).exists() for name in (WEIGHTS, TRAIN, TEST, SAMPLE))), None
    )


def _show(outcomes: list[Outcome]) -> None:
    from gpu_steps.table import table
    from rich.console import Console

    device = next((o.content["machine"]["device"] for o in outcomes if o.content), "nothing measured")
    Console(width=110 if not sys.stdout.isatty() else None).print(table(outcomes, f"{device}: gradprobe on a GPU"))


if __name__ == "__main__":
    sys.exit(main())

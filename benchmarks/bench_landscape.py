"""The landscape's time per cell over the bare encoder forward, and against loss_landscapes 3.0.6, in one run.

Needs the extra `peers`. Same model, scorer, images and noise for all three. *Bare* is what no implementation can do
without: the frozen encoder's forward, in one batch of all images, on the tokens that the operator sends, on all of
torch's threads. *Ours* is `gradprobe.landscape` with as many workers as torch has threads. *Peer* is
`loss_landscapes.random_plane` (`random_line` for lines), given the forward function that a user would write: scorer,
noise, operator, encoder, loss. Making directions and reading images are in none; what ours does once a plane (three
products of the hidden layer, the loss at theta itself) is measured beside it and taken out of the time per cell, as
31 x 31 cells share it. *Run* is the share of images that ours ran the encoder for: the others' selections had not
changed.

    python benchmarks/bench_landscape.py [--rounds 3] [--models tiny base] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loss_landscapes
import torch
from bench_coherence import Loaded, loaded
from loss_landscapes.metrics import Metric
from loss_landscapes.model_interface.model_wrapper import GeneralModelWrapper

import gradprobe as gp
from gradprobe.core import Batch, Noise
from gradprobe.probes.contract import Subject
from gradprobe.probes.landscape.axes import random_axes
from gradprobe.probes.landscape.measure import landscape
from gradprobe.probes.landscape.plane_losses import Plane, plain_losses
from gradprobe.probes.landscape.plane_scores import ScoreField
from gradprobe.training.workers import groups_of, one_thread

K = 58
AIMS = {  # (images, kind of operator): what the time of the peer over ours should be at least
    (64, "full"): 1.15, (64, "gather"): 1.5, (4, "full"): 1.5, (4, "gather"): 2.0, ("line", "gather"): 2.0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Work that is timed: our grid, the peer's steps along each direction, and the operator."""

    op: str
    images: int
    grid: str
    steps: int


class Timed(Metric):
    """The mean loss, and when it was asked for: the peer's time per cell without its set-up."""

    def __init__(self, forward: Callable[[Any], float]):
        super().__init__()
        self._forward, self.ends = forward, []

    def __call__(self, wrapper: Any) -> float:
        value = self._forward(wrapper)
        self.ends.append(time.perf_counter())
        return value


@dataclass(frozen=True)
class Counted(Loaded):
    """A task that counts the images that its encoder is run for."""

    rows: list[int] = field(default_factory=list)

    def losses(self, selection: Any, batch: Batch) -> torch.Tensor:
        self.rows.append(len(batch.ids))
        return self.task.losses(selection, batch)


def bare(task: Loaded, op: str, batch: Batch) -> float:
    with torch.no_grad(), task.running():
        scores = task.scorer(batch.tokens.patches)
        selection = gp.build(op)(batch.tokens.patches, scores, K, noise=Noise(0, batch.ids))
        started = time.perf_counter()
        task.losses(selection, batch)
        return time.perf_counter() - started


def ours(task: Loaded, case: Case) -> tuple[float, float, float]:
    """Seconds a cell, of the set-up that a plane has once, and the share of images that the encoder ran for."""
    counted = Counted(task.task, task.ready)
    started = time.perf_counter()
    result = landscape(counted, gp.build(case.op), K, grid=case.grid, images=case.images)
    seconds = time.perf_counter() - started
    prepared = setup(task, case)
    return (seconds - prepared) / result.losses[..., 0].size, prepared, sum(counted.rows) / result.losses.size


def setup(task: Loaded, case: Case) -> float:
    """Compute the parts of a plane that are needed once: the hidden layer's products and the loss at theta."""
    theta = {name: p.detach() for name, p in task.scorer.named_parameters()}
    axes = random_axes(theta, 3, 3, seed=0)
    groups = groups_of(task.ready[0])
    with one_thread(), torch.no_grad():
        started = time.perf_counter()
        field = ScoreField(task.scorer, theta, axes.d1, axes.d2)
        for group in groups:
            field.at(group.tokens.patches)
        products = (time.perf_counter() - started) / min(torch.get_num_threads(), len(groups))
    plane = Plane(Subject(task, gp.build(case.op), K), axes, seed=0)
    started = time.perf_counter()
    plain_losses(plane, groups, theta)
    plain_losses(plane, groups[:1], theta)
    return products + time.perf_counter() - started


def peers(task: Loaded, case: Case, batch: Batch) -> float:
    operator, line = gp.build(case.op), "x" not in case.grid

    def forward(scorer: torch.nn.Module, _: Any) -> float:
        with torch.no_grad():
            scores = scorer(batch.tokens.patches)
            selection = operator(batch.tokens.patches, scores, K, noise=Noise(0, batch.ids))
            return float(task.losses(selection, batch).mean())

    metric = Timed(lambda wrapper: wrapper.forward(None))
    state = {name: p.detach().clone() for name, p in task.scorer.named_parameters()}
    wrapper = GeneralModelWrapper(task.scorer, [task.scorer], forward)
    walk = loss_landscapes.random_line if line else loss_landscapes.random_plane
    try:
        with task.running():
            walk(wrapper, metric, distance=4, steps=case.steps, normalization="filter")
    finally:  # it leaves the scorer moved and frozen
        with torch.no_grad():
            for name, p in task.scorer.named_parameters():
                p.copy_(state[name])
                p.requires_grad_(True)
    return (metric.ends[-1] - metric.ends[0]) / (len(metric.ends) - 1)


def cases(base: bool) -> list[Case]:
    if base:
        return [Case("gumbel", 16, "3x11", 3), Case("vpnoise", 16, "3x3", 2), Case("gumbel", 4, "3x31", 4)]
    return [
        Case("gumbel", 64, "3x31", 3), Case("vpnoise", 64, "3x5", 3), Case("scale", 64, "3x5", 3),
        Case("softtopk", 64, "3x5", 3), Case("gumbel", 4, "10x31", 5), Case("vpnoise", 4, "6x31", 5),
        Case("gumbel", 16, "2000", 30),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=("tiny", "base"), default=["tiny"], help="base: minutes a case")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": []}
    print(
        f"{'model':24}{'operator':10}{'images':>7}{'grid':>7}{'bare ms':>9}{'ours ms':>9}{'peer ms':>9}"
        f"{'ours/bare':>11}{'peer/ours':>11}{'min':>6}{'max':>6}{'aim':>6}{'run':>6}"
    )
    for size in asked.models:
        name, few = f"deit_{size}_patch16_224", size == "base"
        for case in cases(few):
            task = loaded(name, {"weights": "none"}, 1, case.images)
            times = []
            for _ in range(1 if few or case.grid == "2000" else asked.rounds):
                below, theirs = bare(task, case.op, task.ready[0]), peers(task, case, task.ready[0])
                cell, prepared, share = ours(task, case)
                times.append((min(below, bare(task, case.op, task.ready[0])), cell, theirs, prepared))
            below, cell, theirs, prepared = (statistics.median(x) for x in zip(*times, strict=True))
            ratios = [t / c for _, c, t, _ in times]
            kind = "gather" if case.op == "gumbel" else "full"
            aim = AIMS.get(("line" if "x" not in case.grid else case.images, kind))
            row = {
                "model": name, "op": case.op, "images": case.images, "grid": case.grid, "bare_s": below,
                "ours_s": cell, "peer_s": theirs, "setup_s": prepared,
                "over_bare": statistics.median(c / b for b, c, _, _ in times),
                "peer_over_ours": statistics.median(ratios), "run": share,
                "least": min(ratios), "most": max(ratios), "aim": aim,
            }  # fmt: skip
            report["rows"].append(row)
            print(
                f"{name:24}{case.op:10}{case.images:7}{case.grid:>7}{1e3 * below:9.1f}{1e3 * cell:9.1f}"
                f"{1e3 * theirs:9.1f}{row['over_bare']:11.3f}{row['peer_over_ours']:11.2f}{min(ratios):6.2f}"
                f"{max(ratios):6.2f}{aim or '':>6}{share:6.0%}",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

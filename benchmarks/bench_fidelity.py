"""Time of the fidelity probe over that of the bare encoder passes it needs, on the same groups of images and threads.

Lower bound of the reference: for each image, sigma and draw two forward passes of K tokens. Lower bound of an operator:
for each image and draw a forward pass of the tokens that it sends, and back to them. Loading, embedding, the scorer's
backward and the held-out steps are outside both.

    python benchmarks/bench_fidelity.py [--json FILE] [--rounds 3] [--images 16]
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from bench_coherence import MODELS, Loaded, loaded, timed

import gradprobe as gp
from gradprobe.core import Noise, Selection, hard_topk
from gradprobe.probes.contract import Resources, Subject, question_of
from gradprobe.probes.fidelity import BLOCK, REFERENCE, SIGMAS, FidelitySettings
from gradprobe.probes.fidelity.measure import score_gradients
from gradprobe.probes.fidelity.reference import _parts, scores_of
from gradprobe.training.memory import Limit
from gradprobe.training.workers import groups_of, in_threads

K, DRAWS, AIM = 58, 4, 1.1
OPERATORS = ("gumbel", "vpnoise", "softtopk")


def bare_forwards(task: Loaded, k: int, workers: int) -> None:
    """Run the encoder alone on K tokens of each image, as often as the reference needs it."""
    (batch,) = task.ready

    def work(group: Any) -> None:
        with torch.no_grad():
            kept = hard_topk(group.tokens.patches, group.tokens.patches[..., 0], k)
            for _ in range(2 * len(SIGMAS) * BLOCK):
                task.losses(kept, group)

    with task.running():
        list(in_threads(work, groups_of(batch), workers))


def ours_forwards(task: Loaded, k: int, workers: int) -> None:
    (batch,) = task.ready
    subject, settings = Subject(task, None, k), settings_of(task)
    question = question_of(REFERENCE, subject, settings.reference)
    with task.running():
        _parts(subject, batch, scores_of(task, batch, settings), question, Resources(workers=workers), Limit())


def bare_backwards(task: Loaded, operator: Any, k: int, workers: int) -> None:
    """Run the encoder alone on the tokens that the operator sends, forward and back to them."""
    (batch,) = task.ready
    deterministic = type(operator.throttle).__name__ == "Attention"

    def work(group: Any) -> None:
        with torch.no_grad():
            scores = task.scorer(group.tokens.patches)
            sent = operator(group.tokens.patches, scores, k, Noise(0, group.ids))
        for _ in range(1 if deterministic else DRAWS):
            tokens = sent.tokens.detach().requires_grad_(sent.key_bias is None)
            bias = None if sent.key_bias is None else sent.key_bias.detach().requires_grad_()
            selection = Selection(tokens, sent.weights, sent.index, bias)
            with torch.enable_grad():
                torch.autograd.grad(task.losses(selection, group).sum(), [tokens if bias is None else bias])

    with task.running():
        list(in_threads(work, groups_of(batch), workers))


def ours_backwards(task: Loaded, operator: Any, k: int, workers: int) -> None:
    (batch,) = task.ready
    with task.running():
        settings = settings_of(task)
        scores = scores_of(task, batch, settings)
        score_gradients(Subject(task, operator, k), batch, scores, settings, Resources(workers=workers))


def settings_of(task: Loaded) -> FidelitySettings:
    return FidelitySettings(draws=BLOCK, images=len(task.ready[0].ids), held_out=3, noise_draws=DRAWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    workers = torch.get_num_threads()
    report: dict[str, Any] = {"threads": workers, "torch": torch.__version__, "rows": []}
    print(f"{'model':24}{'stage':12}{'bare s':>9}{'ours s':>9}{'ours/bare':>11}{'min':>7}{'max':>7}{'aim':>6}")
    for name, options in MODELS.items():
        task = loaded(name, options, 1, given.images)
        stages = {"reference": (bare_forwards, ours_forwards, ())}
        stages |= {op: (bare_backwards, ours_backwards, (gp.build(op),)) for op in OPERATORS}
        for stage, (bare, ours, more) in stages.items():
            times = []
            for round_ in range(given.rounds + 1):  # the first one warms up
                below = timed(bare, task, *more, K, workers)
                own = timed(ours, task, *more, K, workers)
                below = (below + timed(bare, task, *more, K, workers)) / 2  # on both sides, as the machine is shared
                if round_:
                    times.append((below, own))
            ratios = [own / below for below, own in times]
            below, own = (statistics.median(x) for x in zip(*times, strict=True))
            row = {
                "model": name, "stage": stage, "bare_s": below, "ours_s": own, "ratio": statistics.median(ratios),
                "ratio_min": min(ratios), "ratio_max": max(ratios), "aim": AIM,
            }  # fmt: skip
            report["rows"].append(row)
            print(
                f"{name:24}{stage:12}{below:9.2f}{own:9.2f}{row['ratio']:11.3f}{min(ratios):7.2f}{max(ratios):7.2f}"
                f"{AIM:6}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

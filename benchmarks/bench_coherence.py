"""The coherence probe's time over its floor, and a gathering operator's time over a full-token one's.

The floor is what no implementation can do without, in the same run on the same batches: for each batch one forward of
the scorer; for each batch and draw the frozen encoder's forward and activation-backward on the tokens that the operator
sends, and two weight-products of the scorer (raw and centred). A deterministic operator needs one draw; how the probe
finds out that it is one is not in the floor. Loading and embedding is excluded from both.

    python benchmarks/bench_coherence.py [--json FILE] [--rounds 5] [--batches 4] [--batch-size 16]
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gradprobe as gp
from gradprobe.core import Noise
from gradprobe.probes.coherence.measure import coherence
from gradprobe.probes.gradients import centred

K, DRAWS = 58, 2
MODELS = {"scenes": {}, "deit_tiny_patch16_224": {"weights": "none"}}  # random weights cost the same
OPERATORS = ("gumbel", "scale", "vpnoise", "softtopk")


@dataclass(frozen=True)
class Loaded:
    """A task whose batches are in memory already."""

    task: Any
    ready: list

    def __getattr__(self, name):
        return getattr(self.task, name)

    def batches(self, count, size, seed):
        return iter(self.ready[:count])


def loaded(name: str, options: dict, batches: int, size: int) -> Loaded:
    if name == "scenes":
        task = gp.classification(name)
        return Loaded(task, list(task.batches(batches, size, 0)))
    from PIL import Image

    folder = Path(__file__).parent / ".images"  # noise: what is in the pictures does not matter here
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(batches * size):
        pixels = torch.randint(0, 256, (224, 224, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.bmp")
    task = gp.classification(name, data=str(folder), loss="kl", **options)
    ready = Loaded(task, list(task.batches(batches, size, 0)))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return ready


def floor(task: Loaded, operator, batches: int) -> None:
    parameters = list(task.scorer.parameters())
    deterministic = type(operator.throttle).__name__ in ("Scale", "Attention")
    for batch in task.ready[:batches]:
        scores = task.scorer(batch.tokens.patches)
        noise = Noise(0, range(len(batch.ids)))
        draws = 1 if deterministic else DRAWS
        for r in range(draws):
            with torch.no_grad():
                sent = operator(batch.tokens.patches, scores, K, noise.draw(r))
            tokens = sent.tokens.detach().requires_grad_()
            bias = None if sent.key_bias is None else sent.key_bias.detach().requires_grad_()
            leaves = [tokens] if bias is None else [bias]
            selection = type(sent)(tokens if bias is None else sent.tokens, sent.weights, sent.index, bias)
            torch.autograd.grad(task.losses(selection, batch).sum(), leaves)
            u = torch.randn_like(scores)
            torch.autograd.grad(scores, parameters, u, retain_graph=True)
            torch.autograd.grad(scores, parameters, centred(u), retain_graph=True)


def probed(task: Loaded, operator, batches: int, size: int) -> None:
    coherence(task, operator, K, batches=batches, batch_size=size, draws=DRAWS)


def timed(function, *arguments) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": []}
    print(f"{'model':24}{'operator':10}{'probe s':>9}{'floor s':>9}{'ratio':>13}{'min':>7}{'max':>7}{'/vpnoise':>10}")
    for name, options in MODELS.items():
        task = loaded(name, options, asked.batches, asked.batch_size)
        operators = {op: gp.build(op) for op in OPERATORS}
        times: dict[str, list[tuple[float, float]]] = {op: [] for op in operators}
        for round_ in range(asked.rounds + 1):  # the first one warms up
            for op, operator in operators.items():
                below = timed(floor, task, operator, asked.batches)
                probe = timed(probed, task, operator, asked.batches, asked.batch_size)
                if round_:
                    times[op].append((probe, below))
        for op, pairs in times.items():
            ratios = [p / f for p, f in pairs]
            against = statistics.median(p[0] / v[0] for p, v in zip(pairs, times["vpnoise"], strict=True))
            probe, below = (statistics.median(x) for x in zip(*pairs, strict=True))
            row = {
                "model": name, "op": op, "probe_s": probe, "floor_s": below, "ratio": statistics.median(ratios),
                "ratio_min": min(ratios), "ratio_max": max(ratios), "over_vpnoise": against,
            }  # fmt: skip
            report["rows"].append(row)
            print(
                f"{name:24}{op:10}{probe:9.2f}{below:9.2f}{row['ratio']:13.3f}{min(ratios):7.2f}{max(ratios):7.2f}{against:10.2f}",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

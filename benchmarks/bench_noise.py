"""The time of keyed noise by Philox over that of the host generator, and over the model that reads it, in one run.

A row is a shape that a probe or training asks for. On a CPU everything runs on one thread; on a GPU host numbers are
drawn on the CPU and sent there, Philox numbers are made there. *Pass* is the forward and backward of an encoder block
on the same tokens, of which a model has twelve or more.

    python benchmarks/bench_noise.py [--device cpu] [--rounds 15] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from gradprobe.core import Noise

SHAPES = {  # images, numbers of an image, kind and its parameters
    "vpnoise, DeiT-Tiny": (16, (196, 192), "normal", ()),
    "vpnoise, DeiT-Base": (16, (196, 768), "normal", ()),
    "vpnoise, 4 pictures of LLaVA": (4, (576, 1024), "normal", ()),
    "gumbel, 32 images": (32, (196,), "gumbel", ()),
    "gumbel, 1 image": (1, (196,), "gumbel", ()),
    "simple, 32 images": (32, (392,), "uniform", ()),
    "imle, 32 images": (32, (10, 196), "gamma", (1 / 58,)),
}
AIM = 1.5


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started)


def block_pass(like: Tensor) -> Callable[[], Any]:
    width = like.shape[-1]
    block = Block(width, max(1, width // 64)).to(like).requires_grad_(False)
    tokens = torch.randn_like(like).requires_grad_()
    return lambda: torch.autograd.grad(block(tokens).sum(), tokens)


def measured(name: str, device: torch.device, rounds: int) -> dict[str, Any]:
    images, shape, kind, parameters = SHAPES[name]
    like = torch.empty(images, *shape, device=device)

    def draw(generator: str) -> Tensor:
        return getattr(Noise(0, range(images), generator=generator), kind)(*parameters, shape, like=like)

    ways: dict[str, Callable[[], Any]] = {name: partial(draw, name) for name in ("host", "philox")}
    if kind == "normal":
        ways["pass"] = block_pass(like)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 2):  # two that warm up
        for way, work in ways.items():
            milliseconds = timed(work, device)
            if turn > 1:
                times[way].append(milliseconds)

    def ratio(above: str, below: str) -> float | None:
        pairs = zip(times.get(above, []), times.get(below, []), strict=True) if below in times else []
        return statistics.median([a / b for a, b in pairs]) if below in times else None

    row = {f"{way}_ms": statistics.median(values) for way, values in times.items()}
    return {"shape": name, **row, "over_host": ratio("philox", "host"), "over_pass": ratio("philox", "pass")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    report: dict[str, Any] = {"device": given.device, "torch": torch.__version__, "rows": []}
    print(f"{'numbers':30}{'host ms':>10}{'philox ms':>11}{'over host':>11}{'over a pass':>13}")
    for name in SHAPES:
        row = measured(name, device, given.rounds)
        report["rows"].append(row)
        share = "" if row["over_pass"] is None else f"{row['over_pass']:.3f}"
        mark = "met" if row["over_host"] <= AIM else "missed"
        print(f"{name:30}{row['host_ms']:10.3f}{row['philox_ms']:11.3f}{row['over_host']:11.2f}{share:>13}", end="")
        print(f"   {mark}: {AIM}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

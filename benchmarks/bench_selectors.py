"""Time of the selectors outside the language model over one projector pass, and over their textbook forms.

LLaVA-1.5's shapes with random weights (576 tokens of width 1024, projector 1024 -> 4096 -> 4096, 16 heads), K = 64, one
image, float32, one thread. All calls of a round are made in turns; a ratio is of one round, its median over rounds has
a 95 % interval. Projected tokens are made beforehand, as the language model needs them anyway. The textbook forms hold
the whole matrix of distances, or of attention, and loop as the papers' pseudo code does; ZOO-Prune's is our own with
its 128 projector passes. Then farthest points of 2880 tokens, K = 320, and the prefill of plans inside the language
model (`inside_prefill.py`).

    python benchmarks/bench_selectors.py [--rounds 7] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inside_prefill import prefill_ratios
from torch import Tensor, nn
from torch.nn import functional as F

from gradprobe.core import Noise
from gradprobe.operators.registry import part
from gradprobe.probes.cost.result import median
from gradprobe.training.workers import one_thread
from gradprobe.view import Tower, TowerLayer, View, Words

N, D, WIDTH, HEADS, K = 576, 1024, 4096, 16, 64
NAMES = (
    "norm", "downsample", "class-attention", "mean-attention", "visionzip", "holov", "prunesid", "cdpruner", "divprune",
    "zoo:exact",
)  # fmt: skip


class Projector(nn.Module):
    """Two linear layers and a GELU, as LLaVA's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.act, self.linear_2 = nn.Linear(D, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        return self.linear_1, self.act, self.linear_2

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


def view_of(projector: Projector, n: int = N) -> View:
    """Return a view of one image of random tokens, projected already."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, n, D, generator=generator)
    q, k = (torch.randn(1, n + 1, D, generator=generator) for _ in range(2))
    layer = TowerLayer(q, k, HEADS, 1)
    words = Words(torch.randn(1, 40, WIDTH, generator=generator), torch.ones(1, 40, dtype=torch.bool))
    view = View(
        Noise(0, (0,)),
        x,
        projector=projector,
        make_tower=lambda: Tower(layer, layer),
        make_words=lambda: words,
        grids=((24, n // 24),),
    )
    view.projected.norm()  # made now
    return view


def textbook_divprune(view: View, k: int) -> Tensor:
    """Hold all distances, and look at all chosen tokens again in each step."""
    z = F.normalize(view.projected[0], dim=-1)
    distance = 1 - z @ z.T
    chosen = [int((distance + 9 * torch.eye(len(z))).amin(1).argmax())]
    while len(chosen) < k:
        value = distance[chosen].amin(0)
        value[chosen] = -1
        chosen.append(int(value.argmax()))
    return torch.tensor(sorted(chosen))


def textbook_attention(view: View, k: int) -> Tensor:
    """Hold the attention of all tokens to all, as eager attention returns it, and read one row."""
    layer = view.tower.last
    q, key = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (layer.queries, layer.keys))
    attention = (q @ key.mT * q.shape[-1] ** -0.5).softmax(-1)
    return attention.mean(1)[0, 0, 1:].topk(k).indices


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Return the CPU seconds of each call in each round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            if turn:
                seconds[name].append(time.thread_time() - start)
    return {name: np.array(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.manual_seed(0)
    projector = Projector().requires_grad_(False)
    with torch.no_grad(), one_thread():
        view = view_of(projector)
        calls: dict[str, Callable[[], Any]] = {"projector": lambda: projector(view.features)}
        for name in NAMES:
            calls[name] = partial(part("selector", name), view, K)
        calls["textbook divprune"] = lambda: textbook_divprune(view, K)
        calls["textbook class-attention"] = lambda: textbook_attention(view, K)
        seconds = timed(calls, asked.rounds)
        few = timed({"zoo": partial(part("selector", "zoo"), view, K), "exact": calls["zoo:exact"]}, 1)
        large = view_of(projector, 2880)
        start = time.thread_time()
        part("selector", "divprune")(large, 320)
        farthest = time.thread_time() - start
    rows = []
    for name, each in seconds.items():
        ratio = median(each / seconds["projector"])
        rows.append({"selector": name, "ms": 1e3 * float(np.median(each)), "over_projector": ratio.value})
        rows[-1] |= {"low": ratio.low, "high": ratio.high}
        print(f"{name:>26}{rows[-1]['ms']:10.1f} ms{ratio.value:9.3f} of a projector pass", end="")
        print(f" [{ratio.low:.3f}, {ratio.high:.3f}]")
    for name in ("divprune", "class-attention"):
        ratio = median(seconds[f"textbook {name}"] / seconds[name])
        print(f"{name}: the textbook form takes {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of its time")
    share = float(few["zoo"][0] / few["exact"][0])
    print(f"zoo with 64 draws over zoo:exact: {share:.1f}")
    print(f"divprune of 2880 tokens, K = 320: {farthest:.2f} s")
    inside = prefill_ratios(asked.rounds)
    for row in inside:
        print(f"{row['plan']:>26}: prefill over ideal {row['over_ideal']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    if asked.json:
        report = {"torch": torch.__version__, "rows": rows, "zoo_over_exact": share, "farthest_2880": farthest}
        asked.json.write_text(json.dumps(report | {"inside": inside}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The time of a prefill that drops visual tokens inside the language model, over that of its layers at their lengths.

A small Llama with random weights reads 576 visual tokens and 97 words (width 512, 8 layers; one CPU thread), with a
cache. The ideal calls the same layers one after the other and cuts the states by a slice where a plan drops tokens: it
asks no selector, gathers nothing and has no hooks. All plans are run in turns, and the thread's own CPU time is taken,
which other programs disturb least; a ratio is of one round, its median over rounds comes with a 95 % interval. "none"
is the language model as it is, over the plain loop; "random" shows the hooks, "fastv" the row of attention too.

    python benchmarks/inside_prefill.py [--rounds 21] [--text 97] [--json FILE]
"""

import argparse
import inspect
import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.probes.cost.result import median
from gradprobe.selectors.dart import DART
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.random import Random
from gradprobe.selectors.sparsevlm import SparseVLM
from gradprobe.training.workers import one_thread
from gradprobe.view import Drop
from gradprobe.vlm.inside import dropping
from gradprobe.vlm.model import VLM

VISUAL = 576
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
WIDE = {"num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 512, "intermediate_size": 1376}
PLANS: dict[str, list[Drop]] = {
    "none": [],
    "random@2, K = 64": [Drop(2, Random(), 64)],
    "fastv@2, K = 192": [Drop(2, FastV(), 192)],
    "fastv@2, K = 128": [Drop(2, FastV(), 128)],
    "fastv@2, K = 64": [Drop(2, FastV(), 64)],
    "dart@2, K = 64": [Drop(2, DART(), 64)],
    "pyramiddrop@2,4,6": [Drop(layer, PyramidDrop(), k) for layer, k in ((2, 288), (4, 144), (6, 72))],
    "sparsevlm@1,2,4": [Drop(layer, SparseVLM(), k) for layer, k in ((1, 82), (2, 32), (4, 18))],
}


def model() -> VLM:
    """Return a LLaVA whose language model has the size of `bench_vlm_prefill`; its tower is not run."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision, text = CLIPVisionConfig(**SMALL, patch_size=14, image_size=336), LlamaConfig(**WIDE, vocab_size=320)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=319)
    return VLM.of(LlavaForConditionalGeneration(config).eval(), name="small-llava")


def ideal(vlm: VLM, states: Tensor, drops: Sequence[Drop]) -> None:
    """Run the layers at their lengths, on the first positions instead of chosen ones."""
    from transformers import DynamicCache

    language: Any = vlm.family.language(vlm.model)
    cache = DynamicCache(config=language.config)
    cut = {drop.layer: states.shape[1] - VISUAL + drop.k for drop in drops}
    name = "cache" if "cache" in inspect.signature(type(language.layers[0]).forward).parameters else "past_key_values"
    rotary = language.rotary_emb(states, torch.arange(states.shape[1])[None])
    for number, layer in enumerate(language.layers):
        if number in cut:
            states = states[:, : cut[number]].contiguous()
            rotary = (rotary[0][:, : cut[number]], rotary[1][:, : cut[number]])
        states = layer(states, attention_mask=None, position_embeddings=rotary, **{name: cache})
    language.norm(states)


def dropped(vlm: VLM, states: Tensor, slot: Tensor, drops: Sequence[Drop]) -> None:
    """Run the language model as `generate` does."""
    mask = torch.ones_like(slot)
    positions, last = mask.cumsum(1) - 1, torch.tensor([slot.shape[1] - 1])
    with dropping(vlm, slot, mask, last, drops, Noise(0, (0,))):
        vlm.family.language(vlm.model)(
            inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=True
        )


def prefill_ratios(rounds: int = 21, text: int = 97) -> list[dict[str, Any]]:
    """Time every plan and its ideal in turns, and return medians of milliseconds and ratios with their intervals."""
    vlm = model()
    states = torch.randn(1, VISUAL + text, WIDE["hidden_size"])
    slot = torch.full((1, VISUAL + text), -1)
    slot[0, 35 : 35 + VISUAL] = torch.arange(VISUAL)
    runs: dict[tuple[str, str], Callable[[], None]] = {}
    for name, drops in PLANS.items():
        runs[name, "ideal"] = lambda drops=drops: ideal(vlm, states, drops)
        runs[name, "ours"] = lambda drops=drops: dropped(vlm, states, slot, drops)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    with torch.no_grad(), one_thread():
        for turn in range(rounds + 1):
            for key, call in runs.items():
                start = time.thread_time()
                call()
                if turn:  # the first warms up
                    seconds[key].append(time.thread_time() - start)
    rows = []
    for name in PLANS:
        ours, perfect, whole = (np.array(seconds[key]) for key in ((name, "ours"), (name, "ideal"), ("none", "ideal")))
        ratio, speed = median(ours / perfect), median(ours / whole)
        rows.append(
            {
                "plan": name, "ideal_ms": 1e3 * float(np.median(perfect)), "ours_ms": 1e3 * float(np.median(ours)),
                "over_ideal": ratio.value, "low": ratio.low, "high": ratio.high, "over_whole": speed.value,
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--text", type=int, default=97)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = prefill_ratios(asked.rounds, asked.text)
    print(f"{'plan':>20}{'ideal ms':>10}{'ours ms':>9}{'over ideal':>12}{'low':>7}{'high':>7}{'over whole':>12}")
    for row in rows:
        times, ratios = f"{row['ideal_ms']:10.1f}{row['ours_ms']:9.1f}", f"{row['low']:7.3f}{row['high']:7.3f}"
        print(f"{row['plan']:>20}{times}{row['over_ideal']:12.3f}{ratios}{row['over_whole']:12.3f}")
    if asked.json:
        report = {"torch": torch.__version__, "transformers": version("transformers"), "rows": rows}
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

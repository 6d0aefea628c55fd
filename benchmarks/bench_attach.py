"""Cost of a pruner inside a model: a decoding step, the prefill and the cache, beside the model given the same tokens.

A LLaVA of LLaVA-1.5's proportions at a quarter of its widths, random weights (576 tokens of width 256 from 8 layers of
a tower, 12 layers of width 1024 in the language model), 40 words, K = 64, one prompt, float32, one thread. The model
that is given 64 tokens runs the tower, projects those 64 and reads them; a linear scorer chooses in the other. Calls of
a round are made in turns; a ratio is of one round, its median over rounds has a 95 % interval.

    python benchmarks/bench_attach.py [--rounds 9] [--steps 8] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gradprobe.probes.cost.result import median
from gradprobe.training.workers import one_thread
from gradprobe.vlm.attaching import attached
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.sequence import assemble

K, WORDS, PLACE = 64, 40, 7


def llava() -> VLM:
    """Return the model."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=8000, hidden_size=1024, intermediate_size=2752, num_hidden_layers=12, num_attention_heads=8
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=PLACE)
    return VLM.of(LlavaForConditionalGeneration(config).eval().requires_grad_(False))


def cache_of(out: Any) -> Any:
    """Return the cache in an output."""
    return out["cache" if "cache" in out else "past_key_values"]


def size_of(cache: Any) -> int:
    """Return the bytes of a cache."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def seconds(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="decoding steps timed together")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.manual_seed(0)
    vlm = llava()
    model, scorer = vlm.model, nn.Sequential(nn.Linear(vlm.dim, 1), nn.Flatten())
    ids = torch.full((1, 576 + WORDS), PLACE)
    ids[:, 576:] = torch.arange(100, 100 + WORDS)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 336, 336)}
    kept = Pruner(vlm, scorer, Budget(K)).kept(inputs)[0][0]
    word = torch.tensor([[9]])

    def given() -> Any:
        features = vlm.vision_features(inputs)
        read = assemble(vlm, vlm.prompt(inputs, features), [features.tokens[0][kept]], [kept], "left")
        places = {"attention_mask": read.attention_mask, "position_ids": read.positions}
        return model(inputs_embeds=read.embeds, **places, logits_to_keep=1)

    def pruned() -> Any:
        return model(**inputs, logits_to_keep=1)

    def steps(out: Any, position: bool) -> Callable[[], None]:
        cache, name = cache_of(out), "cache" if "cache" in out else "past_key_values"
        length = ids.shape[1]

        def run() -> None:
            for step in range(asked.steps):
                where = {"position_ids": torch.tensor([[length + step]])} if position else {}
                model(input_ids=word, **{name: cache}, **where)
            cache.crop(-asked.steps)

        return run

    ratios: dict[str, list[float]] = {"prefill": [], "decoding step": []}
    with torch.no_grad(), one_thread():
        with attached(model, scorer, k=K):
            same = pruned().logits
            small = size_of(cache_of(pruned()))
        whole = size_of(cache_of(pruned()))
        torch.testing.assert_close(same, given().logits, atol=1e-4, rtol=0)
        for turn in range(asked.rounds + 1):
            plain = seconds(given)
            plain_step = seconds(steps(given(), True))
            with attached(model, scorer, k=K):
                ours = seconds(pruned)
                our_step = seconds(steps(pruned(), False))
            if turn:
                ratios["prefill"].append(ours / plain)
                ratios["decoding step"].append(our_step / plain_step)
    result = {name: median(np.array(each)) for name, each in ratios.items()}
    for name, each in result.items():
        interval = f"95 % interval {each.low:.3f} to {each.high:.3f}"
        print(f"{name:14s} {each.value:.3f} of the model given {K} tokens ({interval})")
    print(f"{'cache':14s} {small / whole:.3f} of the whole prompt's ({K + WORDS} of {576 + WORDS} tokens)")
    if asked.json:
        asked.json.write_text(
            json.dumps({name: vars(each) for name, each in result.items()} | {"cache": small / whole})
        )


if __name__ == "__main__":
    main()

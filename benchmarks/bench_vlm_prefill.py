"""The time of a VLM's prefill against the number of visual tokens kept, over the full length, in one run.

A small LLaVA-shaped model with random weights (CLIP tower at 336 px, so N = 576; Llama of width 512, 8 layers) on one
CPU thread. In each round every number of tokens is run once, in turns; a ratio is of one round, its median over rounds
comes with a 95 % interval. Beside it stands the ratio of FLOPs, which a prefill would follow if time were FLOPs, and
the pruner's share of the time to the first token.

    python benchmarks/bench_vlm_prefill.py [--k 288 192 128 64 32] [--rounds 9] [--text 97] [--json FILE]
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradprobe.probes.cost.result import median
from gradprobe.training.workers import one_thread
from gradprobe.vlm.costs.flops import cost

SCORER = "transformer:depth=2,width=128"
NARROW = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 256, "intermediate_size": 1024}
WIDE = {"num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 512, "intermediate_size": 1376}


def shape(folder: str) -> str:
    """Write the configuration of a small LLaVA into a folder."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(**NARROW, patch_size=14, image_size=336)
    text = LlamaConfig(**WIDE, vocab_size=32064)
    LlavaConfig(vision_config=vision, text_config=text).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, nargs="+", default=[288, 192, 128, 64, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--text", type=int, default=97)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, one_thread():
        found = cost(shape(folder), k=asked.k, text_tokens=asked.text, scorer=SCORER).measured(passes=asked.rounds)
    assert found.timing is not None
    full = found.flops[0]
    report: dict[str, Any] = {"torch": torch.__version__, "transformers": version("transformers"), "rows": []}
    print(f"{'kept':>6}{'length':>8}{'encoder ms':>12}{'pruner ms':>11}{'prefill ms':>12}", end="")
    print(f"{'over full':>11}{'low':>7}{'high':>7}{'FLOPs':>8}{'pruner share':>14}")
    for each in found.flops:
        own, all_ = found.timing.milliseconds[each.kept if each.pruned else 0], found.timing.milliseconds[0]
        ratio = median(own[:, 2] / all_[:, 2])
        encoder, pruner, prefill = np.median(own, 0)
        row = {
            "kept": each.kept, "length": each.sequence, "encoder_ms": encoder, "pruner_ms": pruner,
            "prefill_ms": prefill, "over_full": ratio.value, "low": ratio.low, "high": ratio.high,
            "flops_over_full": each.prefill / full.prefill, "pruner_share": float(np.median(own[:, 1] / own.sum(1))),
        }  # fmt: skip
        report["rows"].append(row)
        print(f"{each.kept:6}{each.sequence:8}{encoder:12.1f}{pruner:11.2f}{prefill:12.1f}{ratio.value:11.3f}", end="")
        print(f"{ratio.low:7.3f}{ratio.high:7.3f}{row['flops_over_full']:8.3f}{100 * row['pruner_share']:12.2f} %")
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Diversity of the tokens of real vision towers on Imagenette, for the cards of the embedded models.

    python benchmarks/tower_diversity.py [--images 48]

Prints mean cosine of two tokens and effective rank of all tokens of an image, means over images. The tower of a
vision-language model hands on its last layer or the second last.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch

import gradprobe as gp
from gradprobe.vlm.training.diversity import diversity

ASSETS = Path(os.environ.get("GRADPROBE_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
TOWERS: dict[str, dict[str, Any]] = {
    "DeiT-Tiny, last layer": {"backbone": "deit_tiny_patch16_224", "weights": "deit_tiny_patch16_224", "layer": 12},
    "ViT-S/14, second last layer": {
        "backbone": "vit_small_patch14_dinov2", "weights": "vit_small_patch14_saliency", "layer": 11,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    images = parser.parse_args().images
    for name, given in TOWERS.items():
        task = gp.classification(
            given["backbone"], weights=str(ASSETS / given["weights"] / "model.safetensors"),
            data=str(ASSETS / "imagenette" / "val"), layer=given["layer"],
        )  # fmt: skip
        with torch.no_grad():
            (batch,) = task.batches(1, images, 0)
        measured = diversity(batch.tokens.patches)
        print(f"{name}: N = {task.n_tokens}, {images} images, cosine {measured.cosine:.3f}, "
              f"effective rank {measured.effective_rank:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()

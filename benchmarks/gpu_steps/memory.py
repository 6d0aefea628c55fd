"""Peak memory and time of a training step of LLaVA-1.5-7B's shape: random weights in bfloat16, scorer in float32.

The step is that of `gradprobe vlm train`: operator, denoiser, projector and language model forward and back, AdamW.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gpu_steps.machine import clear
from gpu_steps.report import Report
from gpu_steps.step import Setup
from gpu_steps.timing import seconds
from gpu_steps.tiny_llava import SCORER as TINY_SCORER
from gpu_steps.tiny_llava import config as tiny_config
from gradprobe.core import Batch, Tokens
from gradprobe.operators.registry import build
from gradprobe.tasks import generator_name
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.vlm.costs.dimensions import config_of, layout_of
from gradprobe.vlm.model import VLM
from gradprobe.vlm.task import Captioning, task_of
from gradprobe.vlm.text import IGNORED, Target, Text

MODEL, BEFORE, CAPTION = "llava-hf/llava-1.5-7b-hf", 35, 62  # text tokens before the image, and of the caption
STEPS = 3  # the first one warms up


def settings(setup: Setup) -> dict[str, Any]:
    """Return model, operator, scorer and micro-batches."""
    own = {"op": "vpnoise", "denoiser": "token", "dtype": "bfloat16", "seed": 0}
    if setup.tiny:
        return {"model": "two layers", "scorer": TINY_SCORER, "k": 4, "micro_batches": (1, 2), **own}
    return {
        "model": MODEL,
        "scorer": "transformer:depth=2,width=1024,heads=16",
        "k": 64,
        "micro_batches": (1, 2, 4),
        **own,
    }


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Train for a few steps with each micro-batch."""
    config = tiny_config() if setup.tiny else config_of(MODEL)
    task = _task(config, setup.device, settings)
    weights = sum(p.numel() * p.element_size() for p in task.vlm.model.parameters()) / 1e9
    report.line("weights", f"{weights:.4g} GB in {settings['dtype']}")
    for size in settings["micro_batches"]:
        if report.has(micro_batch=size) or report.over(f"a micro-batch of {size}"):
            continue
        clear(setup.device)
        report.row({"micro_batch": size, "weights_gb": weights, **_step(task, size, setup.device, settings)})
    for row in report.rows:
        peak = "no GPU, not measured" if row["peak_gb"] is None else f"{row['peak_gb']:.1f} GB at most"
        text = "out of memory" if row["out_of_memory"] else f"{peak}, {row['step_s']:.3f} s a step"
        report.line(f"micro-batch of {row['micro_batch']}", text)


@dataclass(frozen=True)
class _OneBatch:
    """Task that trains on one batch again and again."""

    task: Captioning
    batch: Batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batch without end."""
        while True:
            yield self.batch


def _step(task: Captioning, size: int, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the peak memory, and the seconds of a step after the first."""
    made = task.with_new_scorer(settings["seed"])
    recipe = Recipe(steps=STEPS, batch_size=size, seed=settings["seed"])
    watched = _OneBatch(made, _batch(made, size))
    trainer: Any = ScorerTrainer(watched, build(settings["op"]), settings["k"], settings["op"], recipe, 1, rows=size)
    peak = None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with task.running():
            steps = trainer.run()
            next(steps)
            took = seconds(lambda: [None for _ in steps], device) / (STEPS - 1)
    except torch.OutOfMemoryError:
        return {"peak_gb": None, "step_s": None, "out_of_memory": True, "loss": None}
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    return {"peak_gb": peak, "step_s": took, "out_of_memory": False, "loss": float(trainer.losses[-1])}


def _task(config: Any, device: str, settings: dict[str, Any]) -> Captioning:
    """Make the task with random weights, on the device."""
    from transformers import AutoModelForImageTextToText

    dtype = getattr(torch, settings["dtype"])
    with _same_numbers(device), torch.device(device):
        torch.manual_seed(settings["seed"])
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=False)
    vlm = VLM.of(model.eval().requires_grad_(False), name=settings["model"])
    names = {"backbone": settings["model"], "weights": "random", "data": "noise", "dtype": settings["dtype"]}
    names |= generator_name("auto", vlm.device)
    source: Any = None  # batches come from `_batch`
    return task_of(vlm, source, names, scorer=settings["scorer"], denoiser=settings["denoiser"], seed=settings["seed"])


def _batch(task: Captioning, size: int) -> Batch:
    """Make a batch of pictures of noise with captions of random words."""
    vlm, generator = task.vlm, torch.Generator().manual_seed(0)
    config = vlm.model.config
    layout = layout_of(config)
    length = BEFORE + layout.placeholders + CAPTION
    ids = torch.randint(2, min(1000, config.image_token_id), (size, length), generator=generator)
    ids[:, BEFORE : BEFORE + layout.placeholders] = config.image_token_id
    labels = ids.clone()
    labels[:, : BEFORE + layout.placeholders] = IGNORED
    with _same_numbers(str(vlm.device)):
        pixels = vlm.family.random_inputs(config, [layout] * size)
    features = vlm.vision_features(pixels)
    patches = torch.stack(list(features.tokens)).to(next(task.scorer.parameters()))
    text = Text(vlm.prompt({"input_ids": ids}, features), labels.to(vlm.device))
    return Batch(tuple(range(size)), Tokens(patches[:, :0], patches), Target(text, None))


@contextmanager
def _same_numbers(device: str) -> Iterator[None]:
    """Leave torch's generators as they were found."""
    with torch.random.fork_rng(devices=[0] if device.startswith("cuda") else []):
        yield

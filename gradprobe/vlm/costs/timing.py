"""Milliseconds of each part of a pruned VLM up to its first token, with random weights of the model's shape."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import hard_topk
from gradprobe.devices import check_dtype, device_named
from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.operators.registry import part
from gradprobe.probes.cost.result import median
from gradprobe.probes.environment import versions
from gradprobe.ranges import check_number
from gradprobe.training.workers import one_thread
from gradprobe.vlm.families.base import Layout
from gradprobe.vlm.model import DTYPES, VLM
from gradprobe.vlm.prompts import VisionFeatures
from gradprobe.vlm.sequence import assemble

PARTS = ("encoder", "pruner", "prefill")
WARM_UP = 3  # passes that are thrown away
CPU_LIMIT = 1_000_000_000  # parameters of the largest model that is timed on a CPU
BEFORE = 35  # text tokens before the image: LLaVA-1.5's system prompt


@dataclass(frozen=True)
class TimingSettings:
    """Circumstances of a timing.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``.
        passes: Timed passes, after warm-up; at least 6.
        dtype: Of the model, one of `gradprobe.vlm.model.DTYPES`; None: float16 on a GPU, float32 on a CPU.
    """

    device: str = "cpu"
    passes: int = 30
    dtype: str | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each part in each pass; in every pass all numbers of tokens are run once, in turns.

    Attributes:
        milliseconds: Tokens kept -> ``(passes, 3)``: encoder (vision tower, as the pruner reads it), pruner (scorer,
            top-K and gather), prefill (projector and language model). 0 stands for the unpruned model.
        device: Name of the device.
        dtype: Of the model.
        environment: Versions and the machine.
    """

    milliseconds: dict[int, np.ndarray]
    device: str
    dtype: str
    environment: dict[str, Any]

    def row(self, kept: int) -> dict[str, Any]:
        """Return medians with 95 % intervals of each part, of their sum, and of the speed-ups over unpruned.

        Args:
            kept: Tokens kept; 0 for the unpruned model.
        """
        full, own = self.milliseconds[0], self.milliseconds[kept]
        estimates = {name: median(own[:, i]) for i, name in enumerate(PARTS)} | {"ttft": median(own.sum(1))}
        estimates["prefill_speedup"] = median(full[:, 2] / own[:, 2])
        estimates["ttft_speedup"] = median(full.sum(1) / own.sum(1))
        return {
            f"{name}{suffix}": getattr(estimate, field)
            for name, estimate in estimates.items()
            for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high"))
        }


def timed(
    config: Any,
    layout: Layout,
    kept: Sequence[int],
    scorer: str,
    text_tokens: int,
    *,
    parameters: int,
    settings: TimingSettings,
) -> Timing:
    """Time the parts of a model with random weights: CUDA events on a GPU, seconds that one thread computes on a CPU.

    Args:
        config: Of the model.
        layout: Of the image.
        kept: Numbers of tokens, beside the unpruned model.
        scorer: Its name.
        text_tokens: Positions beside those of the image.
        parameters: Of the model.
        settings: Device, passes and precision.

    Raises:
        UsageError: A model too large for a CPU, too few passes, or no such device or dtype.
        GradprobeError: The memory of the device is too small.
    """
    check_number("passes", settings.passes)
    if settings.dtype is not None and settings.dtype not in DTYPES:
        raise UsageError(f"--dtype {settings.dtype} is not possible; {nearest(settings.dtype, DTYPES)}")
    where = _device(settings.device, parameters)
    on_gpu = where.type == "cuda"
    dtype = settings.dtype or ("float16" if on_gpu else "float32")
    check_dtype(dtype, where, "--dtype float16")
    # The generators are left as found; a GPU other than `where` is not touched.
    with torch.random.fork_rng(devices=[where] if on_gpu else []), one_thread():
        torch.manual_seed(0)
        try:
            run = _Run(config, layout, text_tokens, scorer, where, getattr(torch, dtype))
            times: dict[int, list[list[float]]] = {n: [] for n in (0, *kept)}
            for _ in range(WARM_UP + settings.passes):
                for n, rows in times.items():
                    rows.append(run.once(n))
        except torch.OutOfMemoryError:
            need = getattr(torch, dtype).itemsize * parameters / 1e9
            raise GradprobeError(
                f"{settings.device} ran out of memory: the weights alone take {need:.1f} GB in {dtype}; time a smaller "
                "model, a smaller --image-size, or on a larger GPU"
            ) from None
    name = torch.cuda.get_device_name(where) if on_gpu else "cpu, 1 thread"
    environment = {"versions": versions() | {"transformers": version("transformers")}}
    arrays = {n: np.array(rows[WARM_UP:]) for n, rows in times.items()}
    return Timing(arrays, name, dtype, environment)


class _Run:
    """Model with random weights, one image of noise, and a scorer."""

    def __init__(self, config: Any, layout: Layout, text: int, scorer: str, device: torch.device, dtype: torch.dtype):
        from transformers import AutoModelForImageTextToText

        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=False).eval()
        self.vlm, self.device = VLM.of(model, name="random weights"), device
        self.scorer = part("scorer", scorer).make(self.vlm.dim, 0).to(device, dtype).eval()
        before = min(BEFORE, text)
        ids = torch.ones(1, text + layout.placeholders, dtype=torch.long)
        ids[:, before : before + layout.placeholders] = config.image_token_id
        inputs = {"input_ids": ids, **self.vlm.family.random_inputs(config, [layout])}
        self.inputs = {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }

    @torch.no_grad()
    def once(self, kept: int) -> list[float]:
        """Return milliseconds of the three parts with so many tokens kept; 0: all, without a scorer."""
        features = VisionFeatures((), ())
        tokens: list[Tensor] = []
        index: list[Tensor] | None = None

        def encode() -> None:
            nonlocal features, tokens
            features = self.vlm.vision_features(self.inputs)
            tokens = list(features.tokens)

        def prune() -> None:
            nonlocal tokens, index
            if kept:
                selection = hard_topk(tokens[0][None], self.scorer(tokens[0][None]), kept)
                assert selection.index is not None
                tokens, index = [selection.tokens[0]], [selection.index[0]]

        def prefill() -> None:
            sequence = assemble(self.vlm, self.vlm.prompt(self.inputs, features), tokens, index, pad="left")
            with self.vlm.reading(sequence):
                self.vlm.model(
                    inputs_embeds=sequence.embeds,
                    attention_mask=sequence.attention_mask,
                    position_ids=sequence.positions,
                    use_cache=True,
                    logits_to_keep=1,
                )

        return _milliseconds([encode, prune, prefill], self.device)


def _milliseconds(stages: Sequence[Callable[[], None]], device: torch.device) -> list[float]:
    """Time several stages, one after another; on a GPU without waiting in between."""
    if device.type != "cuda":
        marks = [time.thread_time()]
        for stage in stages:
            stage()
            marks.append(time.thread_time())
        return [1000 * (after - before) for before, after in pairwise(marks)]
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(stages) + 1)]
        events[0].record()
        for stage, event in zip(stages, events[1:], strict=True):
            stage()
            event.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) for before, after in pairwise(events)]


def _device(name: str, parameters: int) -> torch.device:
    device = device_named(name, kinds=("cpu", "cuda"), hint="or leave --measure out: FLOPs need no device")
    if device.type == "cpu" and parameters > CPU_LIMIT:
        raise UsageError(
            f"a model of {parameters / 1e9:.1f} billion parameters is too large to time on a CPU; give --device cuda, "
            "or leave --measure out: FLOPs need no device"
        )
    return device

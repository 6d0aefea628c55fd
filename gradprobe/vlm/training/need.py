"""Memory that a training needs, before its first step: what is counted, what is there, and what to lower."""

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, Noise
from gradprobe.devices import cuda_available, free_memory
from gradprobe.embedded.vlms import embedded_folder
from gradprobe.errors import GradprobeError, Notice
from gradprobe.models.hub import hub_or_cache
from gradprobe.training.surrogate_loss import training_loss
from gradprobe.vlm.installed import transformers_module
from gradprobe.vlm.training.sharding import local_bytes
from gradprobe.vlm.vision_features import CACHE

FACTOR = 1.5  # between the need and a measured peak, either way, on the embedded models
TRAINED = 24  # bytes of a trained number in float32: itself, AdamW's two moments, two gradients and their sum
WRITTEN = 44  # bytes of it where a checkpoint is written: itself and moments, and twice the file with the best scorer
WORD = 8  # bytes of a word of the vocabulary at each position that are not kept from the forward pass to the backward


@dataclass(frozen=True)
class Need:
    """Memory of a training in bytes.

    Attributes:
        frozen: Parameters of the frozen model that this process holds, by data type.
        trained: Scorer and denoiser with gradients and AdamW's moments.
        writing: The same on a CPU while a checkpoint is written, when there are no activations; elsewhere 0.
        image: Activations of one image.
        images: Images at a time: those of a micro-batch, in each thread.
        data: Features of two batches, and those of earlier images, which are kept while there is room.
    """

    frozen: dict[str, int]
    trained: int
    writing: int
    image: int
    images: int
    data: int

    @property
    def rest(self) -> int:
        """Bytes beside the frozen model."""
        return self._beside(self.images)

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.frozen.values()) + self.rest

    def text(self, free: int | None) -> str:
        """Return the need in a line, beside the free memory where that is known.

        Example:
            >>> Need({"bfloat16": 14 * 10**9}, 10**9, 0, 10**9, 4, 10**8).text(30 * 10**9)
            'memory: 14 GB frozen model (bfloat16) + 1 GB scorer, denoiser and AdamW + 4 GB activations (4 images at a
            time) + 0.1 GB features = 19.1 GB; 30 GB are free beside the model'
        """
        parts = [f"{in_words(size)} frozen model ({dtype})" for dtype, size in self.frozen.items()]
        if self.writing > self.trained + self.image * self.images:
            parts += [f"{in_words(self.writing)} scorer, denoiser and AdamW while a checkpoint is written"]
        else:
            at_a_time = "one image" if self.images == 1 else f"{self.images} images"
            parts += [f"{in_words(self.trained)} scorer, denoiser and AdamW"]
            parts += [f"{in_words(self.image * self.images)} activations ({at_a_time} at a time)"]
        parts += [f"{in_words(self.data)} features"]
        there = "" if free is None else f"; {in_words(free)} are free beside the model"
        return f"memory: {' + '.join(parts)} = {in_words(self.total)}{there}"

    def check(self, free: int | None, least: int) -> None:
        """Refuse a training that memory certainly does not hold, and warn where it may not.

        Args:
            free: Bytes that are free beside the frozen model; None: that is not known.
            least: Images at a time without which it cannot go on: 1 where they are halved by themselves.

        Raises:
            GradprobeError: It needs more than `FACTOR` times of what is free.
        """
        rest = self._beside(min(least, self.images))
        if free is None or rest <= free:
            return
        fewer = self.images > 1 and self._beside(1) <= free
        remedies = [f"lower --rows (below {self.images})"] if fewer else []
        remedies += ["give --dtype bfloat16"] if "bfloat16" not in self.frozen else []
        remedies += ["lower --batch-size", "give --device auto (all GPUs of this machine)"]
        remedies += ["spread the model over processes (accelerate launch --use_fsdp)"]
        message = f"the training needs about {in_words(rest)} beside the frozen model, and {in_words(free)} are free"
        if rest > FACTOR * free:
            raise GradprobeError(f"{message}: {', or '.join(remedies)}")
        warnings.warn(f"{message}; if it is stopped, {', or '.join(remedies)}", Notice, stacklevel=3)

    def _beside(self, images: int) -> int:
        return self.data + max(self.trained + self.image * images, self.writing)


def need_of(trainer: Any, task: Any, parts: Sequence[Batch], rows: int, workers: int, images: int) -> Need:
    """Measure the activations of one image in a forward pass, and count everything else.

    Args:
        trainer: Trainer before its first step.
        task: Frozen model, scorer and denoiser.
        parts: First batch; the longest of its sequences is taken.
        rows: Images of a micro-batch.
        workers: Threads, each with a micro-batch.
        images: Different images that the training and its validation read.
    """
    model = task.vlm.model
    text = model.config.get_text_config()
    longest = max(parts, key=lambda part: part.target.caption.prompt.input_ids.shape[1])
    one = longest.subset(slice(0, 1))
    operator = trainer.operator(0)
    noise = Noise(trainer.recipe.seed, one.ids, generator=task.generator).draw(1)
    k = trainer.tokens_kept(one.tokens.patches.shape[1])
    kept = kept_for_backward(lambda: training_loss(task, operator, k, one, noise, "the operator")[1], model)
    words = WORD * text.vocab_size * longest.target.caption.prompt.input_ids.shape[1]
    trained = sum(p.numel() for _, p in trainer.named_parameters())
    size = sum(len(part.ids) for part in parts)
    batch = sum(part.tokens.patches.nbytes for part in parts)
    weight = next(model.parameters())
    cached = min(CACHE.limit, images * batch // size * weight.itemsize // 4)
    on_cpu = task.vlm.device.type == "cpu"
    return Need(
        frozen=local_bytes(model),
        trained=trained * TRAINED,
        writing=trained * WRITTEN * on_cpu,
        image=kept + words,
        images=min(rows * workers, size),
        data=2 * batch + cached,
    )


def kept_for_backward(work: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes of the tensors that a forward pass keeps for its backward, without those of the model.

    Parameters that processes share are put together for a layer and let go again: they are not counted either.
    """
    known = {p.untyped_storage().data_ptr() for p in model.parameters() if not hasattr(p, "to_local")}
    sizes: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and not isinstance(base, nn.Parameter):
            sizes[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(size for size, _ in sizes.values())


def check_frozen(model: str, dtype: str, device: str, copies: int = 1) -> None:
    """Refuse a frozen model that memory does not hold, before its weights are fetched and read.

    Args:
        model: Name of the model; one that is embedded always fits.
        dtype: Data type of its parameters.
        device: Device that it is opened on.
        copies: Processes of this machine that each read it into host memory.

    Raises:
        GradprobeError: Its parameters alone take more than is free.
    """
    if embedded_folder(model) is not None:
        return
    transformers = transformers_module()
    try:
        with nullcontext() if Path(model).is_dir() else hub_or_cache():
            config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        with torch.device("meta"):
            empty = transformers.AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        count = sum(p.numel() for p in empty.parameters())
        free = free_on(device)
    except Exception:  # whatever is wrong with the model or the device is told where it is opened
        return
    size = count * copies * getattr(torch, dtype).itemsize
    if free is None or size <= free:
        return
    remedies = [] if dtype != "float32" else [f"give --dtype bfloat16 ({in_words(size // 2)})"]
    remedies += [] if device == "auto" else ["give --device auto (all GPUs of this machine)"]
    remedies += [] if copies > 1 else ["spread it over GPUs (accelerate launch --use_fsdp)"]
    each = "" if copies == 1 else f" in {copies} processes"
    raise GradprobeError(
        f"{model} has {count / 1e9:.1f} billion parameters, {in_words(size)} in {dtype}{each}, and {in_words(free)} "
        f"are free on {'this machine' if device in ('cpu', 'auto') else device}: {', or '.join(remedies)}"
    )


def free_on(device: str | torch.device) -> int | None:
    """Return the bytes that are free on a device; ``auto``: on all GPUs together; None: that is not known."""
    if str(device) == "auto":
        if not cuda_available():
            return free_on("cpu")
        return sum(free_memory(torch.device("cuda", i)) for i in range(torch.cuda.device_count()))
    kind = torch.device(device).type
    return free_memory(torch.device(device)) if kind == "cuda" else _free_on_host() if kind == "cpu" else None


def in_words(size: int) -> str:
    """Return a number of bytes to three figures.

    Example:
        >>> in_words(14_126_000_000), in_words(3_200_000), in_words(0)
        ('14.1 GB', '3.2 MB', '0 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 10**8 else f"{size / 1e6:.3g} MB"


def _free_on_host() -> int | None:
    """Return the least of the machine's available memory and of what the process's control group has left."""
    free = [_limit_left(Path("/sys/fs/cgroup"), "memory.max", "memory.current")]
    free += [_limit_left(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):  # not Linux
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((each for each in free if each is not None), default=None)


def _limit_left(folder: Path, limit: str, used: str) -> int | None:
    try:
        left = int((folder / limit).read_text()) - int((folder / used).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    return left + int(statistics.get("inactive_file", statistics.get("total_inactive_file", 0)))  # given back at need

"""Losses and gradients at whole counts, each computed once: in this run or in one that was interrupted."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch
from gradprobe.errors import GradprobeError
from gradprobe.store.chunk_log import ChunkLog, open_chunk_log
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import outcomes
from gradprobe.vlm.search.relaxed import Relaxation, relaxed_losses
from gradprobe.vlm.search.search import SHARPEST

Array = NDArray[np.float64]
Counts = tuple[int, ...]


@dataclass(eq=False)
class Pieces:
    """Numbers that the probe is made of, by what they are of.

    Attributes:
        asked: Model, data and selector; its steps are the batches.
        log: File of those that are there.
    """

    asked: Search
    log: ChunkLog
    _known: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for chunk in self.log.chunks.values():
            head, _, numbers = chunk.partition(b"\n")
            facts = json.loads(head)
            self._known[facts["of"]] = np.frombuffer(numbers, "<f8").reshape(facts["shape"])

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """The batches, from the images that a search steps on."""
        return tuple(self.asked.training(place) for place in range(self.asked.settings.inner))

    def deployed(self, counts: Counts, held: bool = False) -> Array:
        """Return the loss of each image with tokens really dropped: of the batches, or held out."""

        def made() -> Array:
            groups = self.asked.groups if held else self.batches
            losses = outcomes(self.asked.task, self.asked.selector, counts, groups, self.asked.settings.seed, False)[0]
            return losses.double().cpu().numpy()

        return self._once(f"deployed {'held out' if held else 'batches'} {_text(counts)}", made)

    def relaxed(self, counts: Counts, softness: float) -> Array:
        """Return the loss of each held-out image at a relaxed schedule."""

        def made() -> Array:
            with torch.no_grad():
                return np.concatenate([
                    self._losses(group, torch.tensor(counts, dtype=torch.float64), softness).double().cpu().numpy()
                    for group in self.asked.groups
                ])  # fmt: skip

        return self._once(f"relaxed {softness!r} {_text(counts)}", made)

    def gradients(self, counts: Counts, softness: float) -> Array:
        """Return the gradient of each batch's relaxed loss in the counts behind the first, ``(B, C)``."""

        def made() -> Array:
            rows = []
            for batch in self.batches:
                own = torch.tensor(counts, dtype=torch.float64, requires_grad=True)
                with torch.enable_grad():
                    loss = self._losses(batch, own, softness).mean()
                rows.append(torch.autograd.grad(loss, own)[0][1:].numpy())
            return np.stack(rows)

        return self._once(f"gradient {softness!r} {_text(counts)}", made)

    def _losses(self, batch: Batch, counts: Tensor, softness: float) -> Tensor:
        tau = (softness * counts.detach()).clamp(min=SHARPEST)
        with self.asked.task.running():
            relaxed = Relaxation(self.asked.selector, counts, tau)
            return relaxed_losses(self.asked.task, batch, relaxed, self.asked.settings.seed)

    def _once(self, of: str, made: Callable[[], Array]) -> Array:
        if of not in self._known:
            numbers = made()
            if not np.isfinite(numbers).all():
                raise GradprobeError(
                    f"a loss or gradient is no finite number ({of}); open the model with --dtype float32"
                )
            head = json.dumps({"of": of, "shape": numbers.shape}).encode()
            self.log.append(len(self.log.chunks), head + b"\n" + numbers.astype("<f8").tobytes())
            self._known[of] = numbers
        return self._known[of]


@contextmanager
def opened(asked: Search, folder: Path) -> Iterator[Pieces]:
    """Open the pieces in a folder; other questions about the same images and selector share them.

    Raises:
        GradprobeError: Another process is at work there, or it cannot be written.
    """
    settings = asked.settings
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GradprobeError(f"cannot write to {folder}: {error.strerror or error}; give another --out") from None
    run = asked.question | {"batches": settings.inner, "batch_size": settings.batch_size}
    with open_chunk_log(folder, run) as log:
        yield Pieces(asked, log)


def _text(counts: Sequence[int]) -> str:
    return ",".join(map(str, counts))

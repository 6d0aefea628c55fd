"""Process group of a training, as ``accelerate launch`` starts it; usually a single process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.scorer_trainer import Shard
from gradprobe.vlm.training.sharding import fsdp_asked


@dataclass(frozen=True)
class ProcessGroup:
    """This process and its place among the others.

    Attributes:
        shard: Its part of each batch; None: it is the only process.
        device: Device that it works on.
        sharded: Whether the frozen model is spread over the processes.
    """

    shard: Shard | None
    device: str
    sharded: bool = False

    @property
    def main(self) -> bool:
        """True for the process that writes files and shows progress."""
        return self.shard is None or self.shard.rank == 0

    @property
    def loading(self) -> str:
        """Device onto which the frozen model is read; one that is to be spread is read into host memory."""
        return "cpu" if self.sharded else self.device

    @property
    def readers(self) -> int:
        """Number of processes of this machine that read the model into host memory at the same time."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.loading == "cpu" and self.shard else 1

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Return the main process's content on all of them, so that other machines need not see its disk."""
        if self.shard is None:
            return content
        contents = [content if self.main else None]
        torch.distributed.broadcast_object_list(contents, src=0)
        return contents[0]

    def smallest(self, number: int) -> int:
        """Return the smallest of the numbers of all processes, which split batches alike only by the same one."""
        if self.shard is None:
            return number
        lowest = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(lowest, op=torch.distributed.ReduceOp.MIN)
        return int(lowest)


SINGLE = ProcessGroup(None, "cpu")
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and of MPI's kinds


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Open the process group of ``accelerate launch``; without a launcher it has one process.

    Args:
        device: Device asked for; with several processes ``cuda`` becomes each one's own.

    Raises:
        UsageError: Several processes with a device map, or a setting of FSDP that is not possible.
        GradprobeError: Accelerate is missing.
    """
    if max(int(os.environ.get(name, "1")) for name in _COUNTS) < 2:
        yield ProcessGroup(None, device)
        return
    try:
        from accelerate import PartialState
    except ImportError:
        raise GradprobeError('several processes need accelerate; type: pip install "gradprobe[vlm]"') from None
    if device == "auto":
        raise UsageError(
            "--device auto spreads the model of one process over all GPUs; with several processes give --device cuda, "
            "and to spread the model over them: accelerate launch --use_fsdp"
        )
    sharded = fsdp_asked()
    state = PartialState(cpu=device == "cpu")
    own = device if device == "cpu" else str(state.device)
    all_sums = partial(all_reduce, device=own)
    try:
        yield ProcessGroup(Shard(state.process_index, state.num_processes, all_sums, sharded), own, sharded)
    finally:
        state.destroy_process_group()


def all_reduce(tensors: list[Tensor], device: str) -> list[Tensor]:
    """Return the sums of tensors over all processes, in one message for each dtype.

    Args:
        tensors: Tensors of the same shapes in every process.
        device: Device of the process group.
    """
    sums = list(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        those = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].detach().to(device).flatten() for i in those])
        torch.distributed.all_reduce(flat)
        for i, part in zip(those, flat.split([tensors[i].numel() for i in those]), strict=True):
            sums[i] = part.view(tensors[i].shape).to(tensors[i].device)
    return sums

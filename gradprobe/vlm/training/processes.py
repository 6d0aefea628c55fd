"""Several processes that train one pruner, as ``accelerate launch`` starts them; usually there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.errors import GradprobeError
from gradprobe.training.train import Share


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        share: its part of each batch, and how sums over all are made; None: it is alone.
        device: where it works.
    """

    share: Share | None
    device: str

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and draws progress."""
        return self.share is None or self.share.rank == 0

    def given(self, content: bytes | None) -> bytes | None:
        """What the first process has, on all of them: other machines need not see its disk."""
        if self.share is None:
            return content
        carried = [content if self.first else None]
        torch.distributed.broadcast_object_list(carried, src=0)
        return carried[0]


ALONE = Processes(None, "cpu")
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and of MPI's kinds


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The process group of ``accelerate launch`` while this lasts; started by hand, a process is alone.

    Args:
        device: what was asked for; with several processes ``cuda`` becomes each one's own.

    Raises:
        GradprobeError: accelerate is missing.
    """
    if max(int(os.environ.get(name, "1")) for name in _COUNTS) < 2:
        yield Processes(None, device)
        return
    try:
        from accelerate import PartialState
    except ImportError:
        raise GradprobeError('several processes need accelerate; type: pip install "gradprobe[vlm]"') from None
    state = PartialState(cpu=device == "cpu")
    own = device if device == "cpu" else str(state.device)
    share = Share(state.process_index, state.num_processes, lambda tensors: summed(tensors, own))
    try:
        yield Processes(share, own)
    finally:
        state.destroy_process_group()


def summed(tensors: list[Tensor], device: str) -> list[Tensor]:
    """Sums over all processes, on each of them; one message for all tensors of a dtype.

    Args:
        tensors: of the same shapes everywhere.
        device: where the process group works.
    """
    found = list(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        those = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].detach().to(device).flatten() for i in those])
        torch.distributed.all_reduce(flat)
        for i, part in zip(those, flat.split([tensors[i].numel() for i in those]), strict=True):
            found[i] = part.view(tensors[i].shape).to(tensors[i].device)
    return found

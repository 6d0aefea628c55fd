"""A tiny model of four layers with captioned images in double precision, for tests of the search."""

import functools
import tempfile
from pathlib import Path

import torch
from captioned import SIZES, Processor, Words, captioned
from tiny_vlms import tiny

from gradprobe.selectors.fastv import FastV
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.model import VLM
from gradprobe.vlm.search.asked import Search, Settings
from gradprobe.vlm.search.kernels import Free
from gradprobe.vlm.task import Captioning, task_of

LAYERS = 4
FEW = Settings(outer=2, inner=2, batch_size=3, validation=4)


def task(family: str = "llava", layers: int = LAYERS, count: int = 12, held_out: int = 4) -> Captioning:
    """Captions of pictures of one size."""
    vlm = tiny(family, layers=layers)
    _, image_processor = vlm.family.tiny()
    vlm = VLM.of(exact(vlm.model.double()), Processor(image_processor, Words()), f"{vlm.name}-{layers}")
    folder = Path(tempfile.mkdtemp())
    source = open_captions(captioned(folder, count, SIZES[:1]), held_out=held_out)
    names = {"backbone": vlm.name, "weights": "random:0", "data": str(folder), "dtype": "float64"}
    return task_of(vlm, source, names, scorer="mlp:width=8", denoiser="none", seed=0)


def exact(model: torch.nn.Module) -> torch.nn.Module:
    """The model with norms in double precision, which its own code computes in single precision."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                new = torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon).double()
                new.weight.data.copy_(norm.weight)
                setattr(parent, name, new)
    return model


@functools.cache
def shared(family: str = "llava") -> Captioning:
    """One task for the tests that do not change it."""
    return task(family)


@functools.cache
def asked(kernel=Free(), selector=FastV(), settings: Settings = FEW, family: str = "llava") -> Search:  # noqa: B008
    """A question to the shared task."""
    return Search(shared(family), selector, kernel, settings)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)

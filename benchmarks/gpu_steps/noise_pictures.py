"""Task on pictures of random numbers that lie on the device, so that nothing is read while a probe is timed."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Selection
from gradprobe.data.images import Images
from gradprobe.models.backbones import Backbone
from gradprobe.models.loading import load_backbone
from gradprobe.tasks import Classification, both_trained, generator_name

POOL = 64  # pictures, which come round again


@dataclass(frozen=True)
class NoisePictures:
    """Source of images as tasks read it; position p shows picture p mod POOL under an id of its own."""

    pictures: Tensor
    labels: Tensor
    size: int = 1_000_000
    skipped: tuple[str, ...] = ()

    def need(self, images: int) -> None:
        """Accept any number of images."""

    def probe(self, start: int, size: int, seed: int) -> Images:
        """Return images ``start .. start + size``."""
        at = torch.arange(start, start + size, device=self.pictures.device) % len(self.pictures)
        return Images(self.pictures[at], self.labels[at], tuple(range(start, start + size)))

    def train(self, start: int, size: int, seed: int) -> Images:
        """Return images of other ids."""
        return self.probe(self.size + start, size, seed)


@dataclass(frozen=True)
class Call:
    """Kind of a call to the encoder.

    Attributes:
        images: Images of the call.
        tokens: Tokens of each, class token included.
        graph: Whether a backward pass follows.
        dtype: Of the tokens.
    """

    images: int
    tokens: int
    graph: bool
    dtype: torch.dtype


@dataclass(frozen=True)
class WatchedBackbone(Backbone):
    """Backbone that notes each call of `encode`."""

    calls: list[Call] = field(default_factory=list)

    def encode(self, prefix: Tensor, selection: Selection) -> Tensor:
        """Note the call and run it."""
        parts = (selection.tokens, selection.key_bias)
        graph = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in parts)
        tokens = selection.tokens
        self.calls.append(Call(len(tokens), prefix.shape[1] + tokens.shape[1], graph, tokens.dtype))
        return super().encode(prefix, selection)

    def counted(self) -> Counter[Call]:
        """Return the calls since the last time, and forget them."""
        counts = Counter(self.calls)
        self.calls.clear()
        return counts


def noise_task(backbone: str, device: str, dtype: str, size: int | None = None) -> Classification:
    """Make a classification of random pictures by a model with random weights, whose calls are watched.

    Args:
        backbone: Name of a timm model.
        device: ``cuda`` or ``cpu``.
        dtype: ``float32`` or ``bfloat16``.
        size: Pixels of a side; None: the model's own.
    """
    opened = load_backbone(backbone, "none", device=device, dtype=dtype, image_size=size)
    watched = WatchedBackbone(**vars(opened))
    generator = torch.Generator().manual_seed(0)
    side = watched.model.patch_embed.img_size
    pictures = torch.randn(POOL, 3, *side, generator=generator).to(device)
    labels = torch.randint(watched.model.num_classes, (POOL,), generator=generator).to(device)
    like = next(watched.model.parameters())
    names: dict[str, Any] = {
        "data": "noise", "scorer": "mlp", "backbone": backbone, "dtype": dtype, "weights": "random:0",
        **generator_name("auto", like.device),
    }  # fmt: skip
    trained = both_trained(names, watched.dim, 0, like)
    return Classification(watched, NoisePictures(pictures, labels), loss="ce", names=names, **trained)

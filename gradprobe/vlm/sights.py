"""What a frozen vision tower made of images, remembered: data that come round again are not looked at twice."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.data.reader import PictureError
from gradprobe.errors import GradprobeError
from gradprobe.vlm.captions import Example, taken_by
from gradprobe.vlm.model import VLM

ROWS = 32  # images that the tower looks at together
LIMIT = 2 << 30  # bytes of features that are remembered
ABOUT = ("image_grid_thw", "image_sizes")  # what a processor says about each image


@dataclass(frozen=True)
class Sight:
    """One image before the projector.

    Attributes:
        tokens: ``(N, D)``, in the order in which the language model reads them.
        layout: the token at each placeholder, ``(L,)``; -1 a newline.
        about: the image's size or grid, as the processor tells it.
    """

    tokens: Tensor
    layout: Tensor
    about: Mapping[str, Tensor]


class Memory:
    """Sights by key, at most so many bytes of them; the oldest are forgotten first."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._known: OrderedDict[tuple, Sight] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, keys: Sequence[tuple]) -> dict[tuple, Sight]:
        """Those of the keys that are known."""
        with self._lock:
            return {key: self._known[key] for key in keys if key in self._known}

    def keep(self, key: tuple, sight: Sight) -> None:
        """Remember a copy, which does not keep the whole batch that it was seen in."""
        kept = Sight(sight.tokens.clone(), sight.layout, sight.about)
        with self._lock:
            if key not in self._known:
                self._known[key] = kept
                self.size += kept.tokens.nbytes
            while self.size > self.limit:
                _, old = self._known.popitem(last=False)
                self.size -= old.tokens.nbytes


MEMORY = Memory(LIMIT)


def sights(vlm: VLM, examples: Sequence[Example], names: Mapping[str, Any]) -> list[Sight]:
    """What the tower makes of images; by model, data and id it is remembered, the oldest forgotten first.

    Args:
        vlm: the frozen model; it needs its processor unless images are normalised arrays ``(3, H, W)``.
        examples: one image each.
        names: what the question calls model, data and precision: the key beside an example's id.
    """
    device = str(next(vlm.model.parameters()).device)
    same = (device, *(str(names.get(name)) for name in ("backbone", "weights", "data", "dtype")))
    keys = [(*same, e.id, e.caption) for e in examples]  # a training picture may have a probe's number
    found = MEMORY.of(keys)
    missing = [i for i, key in enumerate(keys) if key not in found]
    for start in range(0, len(missing), ROWS):
        those = missing[start : start + ROWS]
        for i, sight in zip(those, _look(vlm, [examples[i] for i in those]), strict=True):
            found[keys[i]] = sight
            MEMORY.keep(keys[i], sight)
    return [found[key] for key in keys]


def _tell_refused(processor: Any, examples: Sequence[Example], images: Sequence[Any]) -> None:
    """Name the first image that the processor refuses.

    Raises:
        GradprobeError: there is one.
    """
    check = taken_by(processor)
    for example, image in zip(examples, images, strict=True):
        try:
            check(image)
        except PictureError as error:
            told = f"the image of the caption {example.caption[:60]!r} {error}"
            raise GradprobeError(f"{told}; leave it out, or open the captions with processor=") from None


def _look(vlm: VLM, examples: Sequence[Example]) -> list[Sight]:
    images = [e.image() if callable(e.image) else e.image for e in examples]
    if all(isinstance(image, np.ndarray) and image.dtype == np.float32 for image in images):
        inputs = {"pixel_values": torch.from_numpy(np.stack(images))}
    else:
        assert vlm.processor is not None
        try:
            inputs = dict(vlm.processor.image_processor(images=images, return_tensors="pt"))
        except (ValueError, TypeError):
            _tell_refused(vlm.processor, examples, images)
            raise
    weight = next(vlm.model.parameters())
    inputs = {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }
    with torch.no_grad():
        seen = vlm.see(inputs)
    about = [{name: inputs[name][i] for name in ABOUT if name in inputs} for i in range(len(images))]
    return [Sight(*found) for found in zip(seen.tokens, seen.layout, about, strict=True)]

"""Cache of vision-tower features, so that repeated images skip the tower."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.data.picture_cache import LIMIT, BoundedCache, onto, room_on
from gradprobe.data.reader import PictureError
from gradprobe.errors import GradprobeError
from gradprobe.training.memory import halving
from gradprobe.vlm.captions import Example, check_of
from gradprobe.vlm.model import VLM

BATCH = 32  # images in one pass of the tower


@dataclass(frozen=True)
class ImageFeatures:
    """One image before the projector.

    Attributes:
        tokens: ``(N, D)``, in the order in which the language model reads them.
        slots: Number of the token at each placeholder, ``(L,)``; -1 for a newline.
        inputs: Size or grid of the image, by the processor's names.
    """

    tokens: Tensor
    slots: Tensor
    inputs: Mapping[str, Tensor]


class FeatureCache(BoundedCache[ImageFeatures]):
    """Features by key, on the model's device: within the limit and what that has room for."""

    def add(self, key: Hashable, image: ImageFeatures) -> None:
        """Cache a copy, which does not keep the whole batch in memory."""
        copy = ImageFeatures(image.tokens.clone(), image.slots, image.inputs)
        self.put(key, copy, copy.tokens.nbytes, room_on(copy.tokens.device))


CACHE = FeatureCache(LIMIT)


def cached_features(vlm: VLM, examples: Sequence[Example], names: Mapping[str, Any]) -> list[ImageFeatures]:
    """Return the features of each image, from the cache where they are in it.

    Args:
        vlm: The frozen model; it needs its processor unless images are normalised arrays ``(3, H, W)``.
        examples: One image each.
        names: Names of model, data and precision in the task's question: the key beside an example's id and caption.
    """
    device = next(vlm.model.parameters()).device
    same = (str(device), *(str(names.get(name)) for name in ("backbone", "weights", "data", "dtype")))
    keys = [(*same, e.id, e.caption) for e in examples]  # a training picture may have a probe's number
    features = CACHE.get(keys)
    missing = [i for i, key in enumerate(keys) if key not in features]
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        images = halving(partial(_in_passes, vlm, [examples[i] for i in some]), len(some), device)
        for i, image in zip(some, images, strict=True):
            features[keys[i]] = image
            CACHE.add(keys[i], image)
    return [features[key] for key in keys]


def _in_passes(vlm: VLM, examples: Sequence[Example], rows: int) -> list[ImageFeatures]:
    return [image for i in range(0, len(examples), rows) for image in _features(vlm, examples[i : i + rows])]


def _features(vlm: VLM, examples: Sequence[Example]) -> list[ImageFeatures]:
    inputs = inputs_of(vlm, examples)
    with torch.no_grad():
        features = vlm.vision_features(inputs)
    return [ImageFeatures(*parts) for parts in zip(features.tokens, features.slots, features.inputs, strict=True)]


def inputs_of(vlm: VLM, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the inputs of the vision tower for images, on the model's device and in its precision.

    Raises:
        GradprobeError: The processor refuses an image.
    """
    images = [e.image() if callable(e.image) else e.image for e in examples]
    if all(isinstance(image, np.ndarray) and image.dtype == np.float32 for image in images):
        inputs = {vlm.family.inputs[0]: torch.from_numpy(np.stack(images))}
    else:
        assert vlm.processor is not None
        try:
            inputs = vlm.family.processed(vlm.processor, images)
        except (ValueError, TypeError):
            _name_refused(vlm.processor, examples, images)
            raise
    weight = next(vlm.model.parameters())
    return {
        name: onto(value, weight.device).to(weight.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }


def _name_refused(processor: Any, examples: Sequence[Example], images: Sequence[Any]) -> None:
    """Name the first image that the processor refuses.

    Raises:
        GradprobeError: There is one.
    """
    check = check_of(processor)
    for example, image in zip(examples, images, strict=True):
        try:
            check(image)
        except PictureError as error:
            fault = f"the image of the caption {example.caption[:60]!r} {error}"
            raise GradprobeError(f"{fault}; leave it out, or open the captions with processor=") from None

"""Loading of a state_dict into a timm VisionTransformer: image size, classes, timm's conversions, and checks."""

import re
import warnings
from collections.abc import Mapping
from math import isqrt
from typing import Any

from timm.layers import to_2tuple
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from gradprobe.embedded.scenes_model import MODELS
from gradprobe.errors import Notice, UsageError, brief
from gradprobe.models.weights import Weights

LARGEST = 4096  # pixels per side


def size_of(image_size: int | str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the height and width of images in pixels, None for None.

    Args:
        image_size: Size as ``384``, ``"384"``, ``"384x288"`` (height first) or ``(384, 288)``.

    Raises:
        UsageError: The size has another form or is too large.

    Example:
        >>> size_of(384), size_of("384x288")
        ((384, 384), (384, 288))
    """
    if image_size is None:
        return None
    text = "x".join(map(str, image_size)) if isinstance(image_size, tuple) else str(image_size)
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text, re.ASCII)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(0 < side <= LARGEST for side in size):
        raise UsageError(
            f"--image-size {text} is not possible; give pixels up to {LARGEST}, such as --image-size 384, or height x "
            "width: --image-size 384x288"
        )
    return size


def settings_of(tensors: Mapping[str, Tensor], model: VisionTransformer, sized: bool) -> dict[str, Any]:
    """Return the arguments of timm's ``create_model`` that a state_dict implies.

    Args:
        tensors: A state_dict in timm's names.
        model: Architecture with timm's defaults; its parameters may be on the meta device.
        sized: Flag for an image size that is known already.

    Returns:
        ``num_classes``, 0 for weights without a head, and ``img_size`` if it is not the default.

    Raises:
        UsageError: The position embedding is not that of a square of patches.
    """
    head = tensors.get("head.weight")
    settings: dict[str, Any] = {"num_classes": 0 if head is None or head.ndim != 2 else len(head)}
    positions = tensors.get("pos_embed")
    if sized or positions is None or model.pos_embed is None or positions.ndim != 3:
        return settings
    count = positions.shape[1] - (0 if model.no_embed_class else model.num_prefix_tokens)
    lacking = model.state_dict().keys() - {"head.weight", "head.bias"} - tensors.keys()
    if count == model.patch_embed.num_patches or lacking:
        return settings  # the default size, or weights of another model, which `fill` refuses
    side = isqrt(max(count, 0))
    if side == 0 or side * side != count:
        raise UsageError(
            f"the position embedding of these weights has {count} patches, which is no square; give the size of the "
            "images that the model was trained on: --image-size HEIGHTxWIDTH"
        )
    steps = _steps(model)
    return settings | {"img_size": (side * steps[0], side * steps[1])}


def check_size(size: tuple[int, int], model: VisionTransformer) -> None:
    """Refuse an image size that does not divide into whole patches.

    Raises:
        UsageError: The size does not divide; the message has the nearest that does.
    """
    nearest = [max(1, round(side / step)) * step for side, step in zip(size, _steps(model), strict=True)]
    if list(size) != nearest:
        text, possible = ("x".join(map(str, each)) for each in (size, nearest))
        raise UsageError(f"--image-size {text} does not divide into patches; the nearest is --image-size {possible}")


def fill(model: VisionTransformer, weights: Weights, name: str) -> None:
    """Load weights into a model, after timm's conversions (names of other libraries, resampled position embedding).

    Warns with a `Notice` if something was unwrapped, chosen or left out.

    Args:
        model: Model of timm, built for the image size of the task.
        weights: Weights as `gradprobe.models.weights.read_weights` returns them.
        name: Name of the model in error messages.

    Raises:
        UsageError: The weights are of another model.
    """
    state, own = dict(weights.tensors), model.state_dict()
    _check_patch(state, own, weights.path, name)
    remarks = []
    if name not in MODELS:
        flexible = "flexi" in name  # timm resamples these differently
        resampling: dict[str, Any] = {"interpolation": "bilinear", "antialias": False} if flexible else {}
        try:
            state = checkpoint_filter_fn(state, model, adapt_layer_scale=True, **resampling)
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(
                f"--weights {weights.path} are of another model than {name} ({brief(error)}); give the file of this "
                "model, its --backbone, or the size of its images with --image-size HEIGHTxWIDTH"
            ) from None
        remarks += _resampled(weights.tensors, state, model)
    if left_out := sorted(key for key in state if key in weights.unprefixed and key not in own):
        remarks.append(f"{', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''} left out")
        state = {key: value for key, value in state.items() if key not in left_out}
    missing = [f"{key} is missing" for key in own if key not in state]
    wrong = [
        f"{key} is {tuple(state[key].shape)} and must be {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    unknown = [f"{key} is unknown" for key in state if key not in own]
    if faults := wrong + missing + unknown:
        further = f" and {len(unknown)} of the file's" if unknown else ""
        count = f"{len(wrong + missing)} of its {len(own)} tensors{further} do not fit"
        raise UsageError(
            f"--weights {weights.path} are of another model than {name}: {count}, first {faults[0]}; give the file of "
            "this model, or its --backbone"
        )
    model.load_state_dict(state)
    if notice := weights.notice(remarks):
        warnings.warn(notice, Notice, stacklevel=3)


def _resampled(before: Mapping[str, Tensor], after: Mapping[str, Tensor], model: VisionTransformer) -> list[str]:
    """Return a remark on a position embedding that was resampled or is not that of a square grid."""
    if "pos_embed" not in before or "pos_embed" not in after:
        return []
    old, new = before["pos_embed"].shape[1], after["pos_embed"].shape[1]
    rows, columns = model.patch_embed.grid_size
    if old != new:
        return [f"position embedding resampled from {old} to {new} tokens ({rows} x {columns} patches)"]
    if rows != columns and isqrt(rows * columns) ** 2 == rows * columns:
        return [f"position embedding read as that of {rows} x {columns} patches"]
    return []


def _check_patch(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str, name: str) -> None:
    """Refuse patches of another size or number of channels, which timm would resample silently."""
    key = "patch_embed.proj.weight"
    if key in state and key in own and state[key].ndim == 4 and state[key].shape[1:] != own[key].shape[1:]:
        shape, expected = (tuple(each[key].shape) for each in (state, own))
        raise UsageError(
            f"--weights {path} are of another model than {name}: {key} is {shape} and must be {expected}; give the "
            "file of this model, or its --backbone"
        )


def _steps(model: VisionTransformer) -> tuple[int, int]:
    """Return the pixels from one patch to the next, vertically and horizontally."""
    size, grid = to_2tuple(model.patch_embed.img_size), model.patch_embed.grid_size
    return size[0] // grid[0], size[1] // grid[1]

"""Backbones by name: the embedded ``scenes`` and ``photos``, or timm's models with weights from the hub or a file."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradprobe.devices import check_dtype, device_named
from gradprobe.embedded.scenes_model import MODELS, load_scenes_model, scenes_model
from gradprobe.errors import GradprobeError, UsageError, brief, nearest, out_of_memory
from gradprobe.models.backbones import Backbone, check_splittable
from gradprobe.models.hub import hub_or_cache
from gradprobe.models.vit_weights import check_size, fill, settings_of, size_of
from gradprobe.models.weights import read_weights

DTYPES = ("float32", "float64", "bfloat16")


def load_backbone(
    name: str,
    weights: str | Path | None = None,
    layer: int = 0,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
) -> Backbone:
    """Load a frozen backbone by name: ``scenes``, ``photos``, or any timm ``VisionTransformer``.

    The head in a file determines the number of classes (0 without a head), its position embedding the image size.
    Checkpoints are unwrapped as `gradprobe.models.weights.read_weights` does; a `Notice` says what was chosen or
    resampled. Torch's random state is restored.

    Args:
        name: Backbone, ``scenes``, ``photos`` or a timm name with or without a tag: ``deit_base_patch16_224.fb_in1k``.
        weights: A .safetensors or .pth file, ``"none"`` for random weights, None for the hub's (or the shipped ones
            of an embedded model).
        layer: Number of blocks before the insertion point, 0..depth.
        seed: Seed of random weights.
        device: Torch device.
        dtype: Data type, ``float32``, ``float64`` or ``bfloat16`` (float32 parameters under autocast).
        weights_key: Key of a model in a file that holds several; None: the first in timm's order of preference.
        image_size: Image size in pixels, or ``"HxW"``; position embeddings of another size are resampled as timm does.
            None: that of the weights.

    Raises:
        UsageError: The name, layer, device, dtype, size or file does not exist, the file's weights are of another
            model, or the model cannot be split.
        GradprobeError: The file is corrupt, or the hub did not deliver the weights.

    Example:
        >>> load_backbone("deit_tiny_patch16_224", weights="none").n_tokens
        196
        >>> load_backbone("deit_tiny_patch16_224", weights="none", image_size="64x32").n_tokens
        8
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not possible; {nearest(dtype, DTYPES)}")
    if weights_key is not None and weights in (None, "none"):
        raise UsageError(f"--weights-key {weights_key} needs a file; give --weights FILE")
    size, place = size_of(image_size), device_named(device)
    check_dtype(dtype, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MODELS:
            model: nn.Module = _scenes(name, weights, weights_key, size)
        else:
            model = _timm(name, weights, weights_key, size)
    backbone = Backbone.of(model.eval().requires_grad_(False), layer, name, autocast=dtype == "bfloat16")
    try:
        model.to(device=place, dtype=torch.float64 if dtype == "float64" else torch.float32)
    except RuntimeError as error:
        if out_of_memory(error):
            raise GradprobeError(f"{name} does not fit in the free memory of {device}; give another --device") from None
        raise UsageError(f"--device {device} is not possible here ({brief(error)}); give another") from None
    return backbone


def _scenes(name: str, weights: str | Path | None, key: str | None, size: tuple[int, int] | None) -> VisionTransformer:
    from gradprobe.data.scenes import MEAN, SIZE, STD

    if size not in (None, (SIZE, SIZE)):
        raise UsageError(f"--image-size is not possible with --backbone {name}, whose images have {SIZE} x {SIZE}")
    model: Any = load_scenes_model(MODELS[name]) if weights is None else scenes_model()
    # Read by timm for the preprocessing of a folder of images.
    model.pretrained_cfg = {
        "input_size": (3, SIZE, SIZE),
        "mean": (MEAN,) * 3,
        "std": (STD,) * 3,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }
    if weights not in (None, "none"):
        fill(model, read_weights(str(weights), model.state_dict(), key), name)
    return model


def _timm(name: str, weights: str | Path | None, key: str | None, size: tuple[int, int] | None) -> nn.Module:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, [*MODELS, *timm.list_models()], n=3)
        guess = f"did you mean {', '.join(close)}? " if close else ""
        raise UsageError(
            f"no backbone is called {name!r}; {guess}possible: {', '.join(MODELS)}, or a name of "
            "timm.list_models('*vit*')"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(f"{architecture} has no weights {tag!r}; {nearest(tag, tags)}")
    with torch.device("meta"):  # no memory: refuse before anything is downloaded
        plan = check_splittable(timm.create_model(architecture), name)
    settings: dict[str, Any] = {}
    if size is not None:
        check_size(size, plan)
        settings["img_size"] = size
    if weights == "none":
        return timm.create_model(name, **settings)
    if weights is not None:
        content = read_weights(str(weights), plan.state_dict(), key)
        model: Any = timm.create_model(name, **settings_of(content.tensors, plan, size is not None), **settings)
        fill(model, content, name)
        return model
    if not tags:
        raise UsageError(f"timm has no weights for {name}; give --weights FILE, or --weights none for random ones")
    with hub_or_cache() as online:
        try:
            return timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # the hub, its client and timm raise many kinds of errors
            problem = f"the hub did not deliver the weights of {name} ({brief(error)})"
            if not online:
                problem = f"the hub could not be reached and its cache has no weights of {name}"
            raise GradprobeError(f"{problem}; give --weights FILE, or --weights none for random ones") from None

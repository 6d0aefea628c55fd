"""The dimensions of the paper's models, and what an image becomes in a model of some dimensions; no weights.

A hub id that is not in the table is not looked up: save its ``config.json`` in a folder and name that.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.vlm.families import family_of
from gradprobe.vlm.installed import transformers_module

SCENES = "scenes-vlm"

# Language models; what is not named is the default of transformers' configuration, the vision towers entirely
# (CLIP ViT-L/14 at 336 px for the LLaVAs), but for Qwen's.
_VICUNA_7B = {
    "model_type": "llama", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}  # fmt: skip
_VICUNA_13B = _VICUNA_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
_MISTRAL_7B = _VICUNA_7B | {
    "model_type": "mistral", "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 32768,
    "sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}  # fmt: skip
_QWEN_3B = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 128000, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
_QWEN_7B = _QWEN_3B | {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4,
}  # fmt: skip
_QWEN_VIT = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16}

DIMENSIONS: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": {"model_type": "llava", "text_config": _VICUNA_7B},
    "llava-hf/llava-1.5-13b-hf": {"model_type": "llava", "text_config": _VICUNA_13B},
    "llava-hf/llava-v1.6-vicuna-7b-hf": {"model_type": "llava_next", "text_config": _VICUNA_7B},
    "llava-hf/llava-v1.6-mistral-7b-hf": {"model_type": "llava_next", "text_config": _MISTRAL_7B},
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl", "text_config": _QWEN_3B, "vision_config": _QWEN_VIT | {"out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl", "text_config": _QWEN_7B, "vision_config": _QWEN_VIT | {"out_hidden_size": 3584},
    },
}  # fmt: skip
PIXELS = (56 * 56, 12_845_056)  # least and most that Qwen's processor keeps, as its hub files say
TILED = (672, 672)  # an image where its size matters: LLaVA-NeXT's in the paper


@dataclass(frozen=True)
class Layout:
    """What one image becomes: what the vision tower reads, and the visual tokens that come out.

    Attributes:
        size: of the image that was given, (height, width).
        seen: of what the tower reads of it, (height, width); tiles laid together, without their overview.
        tiles: images that the tower reads: 1, or LLaVA-NeXT's tiles and overview.
        patches: of each tile.
        class_tokens: positions of the tower beside the patches of a tile.
        grids: rows and columns of visual tokens, in the order in which the language model reads them.
        newlines: positions in the language model that are no visual tokens: LLaVA-NeXT ends each row of tiles with one.
        windows: patches of each window of windowed attention (Qwen); () without.
    """

    size: tuple[int, int]
    seen: tuple[int, int]
    tiles: int
    patches: int
    class_tokens: int
    grids: tuple[tuple[int, int], ...]
    newlines: int
    windows: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """N, the visual tokens that can be kept or dropped."""
        return sum(rows * columns for rows, columns in self.grids)

    @property
    def placeholders(self) -> int:
        """Positions that the image takes in the language model."""
        return self.tokens + self.newlines


_SIZE = re.compile("(hidden|intermediate|image|patch|temporal_patch|spatial_merge|window|vocab|out_hidden)_size|depth"
                   "|num(_[a-z]+)*_(heads|layers|channels)|num_heads|in_channels|embed_dim|head_dim")  # fmt: skip


def config_of(name: str | Path) -> Any:
    """The configuration of a model of the table, of ``scenes-vlm``, or of a folder with ``config.json``.

    Args:
        name: a hub id of the table, ``scenes-vlm``, or a folder.

    Returns:
        A transformers configuration of one of the three families.

    Raises:
        UsageError: an unknown name, or a model of another family.
        GradprobeError: a ``config.json`` that cannot be read.

    Example:
        >>> config_of("Qwen/Qwen2.5-VL-7B-Instruct").text_config.hidden_size
        3584
    """
    if str(name) in DIMENSIONS:
        dimensions = deepcopy(DIMENSIONS[str(name)])  # transformers takes some entries out
        return transformers_module().AutoConfig.for_model(dimensions.pop("model_type"), **dimensions)
    if str(name) == SCENES:
        from gradprobe.vlm.scenes import FOLDER

        return _read(FOLDER)
    if Path(name).is_dir():
        return _read(Path(name))
    raise UsageError(
        f"the dimensions of {name} are not known here; {nearest(str(name), [*DIMENSIONS, SCENES])}. For another model "
        "give a folder with its config.json"
    )


def _read(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no config.json; give a folder with one, or one of {', '.join(DIMENSIONS)}")
    try:
        config = transformers_module().AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers checks entries with errors of many kinds
        told = " ".join(str(error).split())[:200]
        raise GradprobeError(f"{folder / 'config.json'} cannot be read: {told}") from None
    family_of(config.model_type, str(folder))  # refuses others
    _check_sizes(config.to_dict(), folder / "config.json")
    return config


def _check_sizes(sizes: Mapping[str, Any], file: Path, within: str = "") -> None:
    """Refuse a size or a number of parts in a configuration that no model can have.

    Raises:
        GradprobeError: names the entry.
    """
    for name, value in sizes.items():
        if isinstance(value, Mapping):
            _check_sizes(value, file, f"{within}{name}.")
        elif _SIZE.fullmatch(str(name)) and isinstance(value, int | float):
            most = 1000 if str(name).endswith(("layers", "depth")) else 10**7
            if not isinstance(value, int) or not 1 <= value <= most:
                entry = f"{within}{name} is {value}; give a whole number of 1 to {most}"
                raise GradprobeError(f"{file} cannot be read: {entry}")


@contextmanager
def told_of(model: str) -> Iterator[None]:
    """Errors of a configuration whose entries do not go together, in one line.

    Raises:
        GradprobeError: whatever else than one was raised while the model was made.
    """
    try:
        yield
    except GradprobeError:
        raise
    except Exception as error:  # transformers' and torch's, of any kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise GradprobeError(f"the configuration of {model} describes no model that can be made: {reason}") from error


def skeleton(config: Any) -> Any:
    """The model of a configuration without weights, on torch's meta device, in eval mode."""
    import torch

    with torch.device("meta"):
        return transformers_module().AutoModelForImageTextToText.from_config(config, trust_remote_code=False).eval()


def layout_of(config: Any, size: tuple[int, int] | None = None) -> Layout:
    """What an image of a size becomes in a model.

    Args:
        config: as `config_of` gives it.
        size: (height, width) of the image. None: what the tower reads for LLaVA, which resizes all images to it,
            672 x 672 for the other two.

    Raises:
        UsageError: a size that is not possible.

    Example:
        >>> config = config_of("llava-hf/llava-v1.6-vicuna-7b-hf")
        >>> layout_of(config).tokens, layout_of(config).placeholders, layout_of(config, (480, 640)).placeholders
        (2880, 2928, 2340)
    """
    if size is not None and (min(size) < 1 or max(size) > min(200 * min(size), 99_999)):
        raise UsageError(f"an image of {size[0]} x {size[1]} is not possible; give --image-size 672x672, height first")
    if config.model_type == "qwen2_5_vl":
        return _native(config.vision_config, size or TILED)
    vision = config.vision_config
    side = vision.image_size
    across = side // vision.patch_size
    class_tokens = int(config.vision_feature_select_strategy == "default")
    if not class_tokens and vision.model_type == "clip_vision_model":
        raise UsageError("a vision tower that hands on its class token is not known here; only 'default' selection is")
    if config.model_type == "llava":
        seen = (side, side)
        return Layout(size or seen, seen, 1, across**2, class_tokens, ((across, across),), 0)
    return _tiled(config, size or TILED, side, across, class_tokens)


def _tiled(config: Any, size: tuple[int, int], side: int, across: int, class_tokens: int) -> Layout:
    """LLaVA-NeXT: an overview and tiles, of which the padding is cut away and each row ended by a newline."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    high, wide = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, side)
    rows, columns = unpad_image(torch.empty(1, high * across, wide * across), size).shape[1:]
    grids = ((across, across), (rows, columns))
    return Layout(size, (high * side, wide * side), 1 + high * wide, across**2, class_tokens, grids, rows)


def _native(vision: Any, size: tuple[int, int]) -> Layout:
    """Qwen: the image's own size in multiples of 28, a token for each group of 2 x 2 patches."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    group = vision.patch_size * vision.spatial_merge_size
    seen = smart_resize(*size, factor=group, min_pixels=PIXELS[0], max_pixels=PIXELS[1])
    rows, columns = seen[0] // group, seen[1] // group
    per, each = vision.spatial_merge_size**2, vision.window_size // group
    windows = tuple(
        per * min(each, rows - i) * min(each, columns - j)
        for i in range(0, rows, each) for j in range(0, columns, each)
    )  # fmt: skip
    return Layout(size, seen, 1, per * rows * columns, 0, ((rows, columns),), 0, windows)


def size_of(text: str | None) -> tuple[int, int] | None:
    """``672x336`` or ``672``, height first, as (height, width).

    Raises:
        UsageError: something else.

    Example:
        >>> size_of("672x336"), size_of("672"), size_of(None)
        ((672, 336), (672, 672), None)
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(re.fullmatch("[0-9]{1,5}", side) and int(side) for side in sides):
        raise UsageError(
            f"--image-size {text} is not possible; give height and width of up to 99999 pixels, e.g. --image-size "
            "672x672"
        )
    return int(sides[0]), int(sides[-1])


# Table 4 of the paper by model and K (0: unpruned): FP16 on one A6000, batch 1, mean of 30 passes; T FLOPs and ms.
TABLE_4: Mapping[tuple[str, int], Mapping[str, float]] = {
    ("llava-hf/llava-1.5-7b-hf", 0): {
        "flops": 8.89, "encoder": 29.71, "pruner": 0.00, "prefill": 118.66, "ttft": 149.51,
    },
    ("llava-hf/llava-1.5-7b-hf", 64): {
        "flops": 2.13, "encoder": 30.41, "pruner": 0.69, "prefill": 41.61, "ttft": 73.73,
    },
}  # fmt: skip

"""Configurations of the paper's models by hub id, and models made of a configuration alone; no weights.

A hub id that is not in the table is not looked up: save its ``config.json`` in a folder and name that.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from gradprobe.embedded.vlms import VLMS, embedded_folder
from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.vlm.families import family_of, published_models
from gradprobe.vlm.families.base import Layout, Size
from gradprobe.vlm.installed import transformers_module

# Table 4 of the paper by model and K (0: unpruned): FP16 on one A6000, batch 1, mean of 30 passes; T FLOPs and ms.
TABLE_4: Mapping[tuple[str, int], Mapping[str, float]] = {
    ("llava-hf/llava-1.5-7b-hf", 0): {
        "flops": 8.89, "encoder": 29.71, "pruner": 0.00, "prefill": 118.66, "ttft": 149.51,
    },
    ("llava-hf/llava-1.5-7b-hf", 64): {
        "flops": 2.13, "encoder": 30.41, "pruner": 0.69, "prefill": 41.61, "ttft": 73.73,
    },
}  # fmt: skip
_SIZE = re.compile(
    "(hidden|intermediate|image|patch|temporal_patch|spatial_merge|window|vocab|out_hidden)_size|depth"
    "|num(_[a-z]+)*_(heads|layers|channels)|num_heads|in_channels|embed_dim|head_dim"
)


def config_of(name: str | Path) -> Any:
    """Return the transformers configuration of a model.

    Args:
        name: A hub id of the table, an embedded model, or a folder with ``config.json``.

    Raises:
        UsageError: An unknown name, or a model of no known family.
        GradprobeError: A ``config.json`` that cannot be read.

    Example:
        >>> config_of("Qwen/Qwen2.5-VL-7B-Instruct").text_config.hidden_size
        3584
    """
    families = published_models()
    if family := families.get(str(name)):
        entries = deepcopy(dict(family.published[str(name)]))  # transformers takes some entries out
        return transformers_module().AutoConfig.for_model(family.name, **entries)
    if folder := embedded_folder(str(name)):
        return _read(folder)
    if Path(name).is_dir():
        return _read(Path(name))
    raise UsageError(
        f"the dimensions of {name} are not known here; {nearest(str(name), [*families, *VLMS])}. For another model "
        "give a folder with its config.json"
    )


def _read(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        names = ", ".join(published_models())
        raise UsageError(f"{folder} holds no config.json; give a folder with one, or one of {names}")
    try:
        config = transformers_module().AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers checks entries with errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise GradprobeError(f"{folder / 'config.json'} cannot be read: {reason}") from None
    family_of(config.model_type, str(folder))  # refuses others
    _check_sizes(config.to_dict(), folder / "config.json")
    return config


def _check_sizes(sizes: Mapping[str, Any], file: Path, within: str = "") -> None:
    """Refuse a size or a number of parts in a configuration that no model can have.

    Raises:
        GradprobeError: Names the entry.
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
def one_line_errors(model: str) -> Iterator[None]:
    """Raise errors about a configuration whose entries do not go together as one line.

    Raises:
        GradprobeError: Any other error while the model was made.
    """
    try:
        yield
    except GradprobeError:
        raise
    except Exception as error:  # transformers' and torch's, of any kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise GradprobeError(f"the configuration of {model} describes no model that can be made: {reason}") from error


def skeleton(config: Any) -> Any:
    """Make the model of a configuration without weights, on torch's meta device, in eval mode."""
    import torch

    with torch.device("meta"):
        return transformers_module().AutoModelForImageTextToText.from_config(config, trust_remote_code=False).eval()


def layout_of(config: Any, size: Size | None = None) -> Layout:
    """Return the layout of an image in a model.

    Args:
        config: As `config_of` gives it.
        size: Height and width of the image. None: what the tower reads for LLaVA, which resizes all images to it,
            672 x 672 for the others.

    Raises:
        UsageError: A size that is not possible.

    Example:
        >>> config = config_of("llava-hf/llava-v1.6-vicuna-7b-hf")
        >>> layout_of(config).tokens, layout_of(config).placeholders, layout_of(config, (480, 640)).placeholders
        (2880, 2928, 2340)
    """
    if size is not None and (min(size) < 1 or max(size) > min(200 * min(size), 99_999)):
        raise UsageError(f"an image of {size[0]} x {size[1]} is not possible; give --image-size 672x672, height first")
    return family_of(config.model_type, "the model").layout(config, size)


def size_of(text: str | None) -> Size | None:
    """Read ``672x336`` or ``672``, height first, as (height, width).

    Raises:
        UsageError: Another text.

    Example:
        >>> size_of("672x336"), size_of("672"), size_of(None)
        ((672, 336), (672, 672), None)
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(re.fullmatch("[0-9]{1,5}", side) and int(side) for side in sides):
        example = "give height and width of up to 99999 pixels, e.g. --image-size 672x672"
        raise UsageError(f"--image-size {text} is not possible; {example}")
    return int(sides[0]), int(sides[-1])

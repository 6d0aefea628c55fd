"""Idefics3: a picture is up to sixteen tiles and an overview, with words between them in the prompt."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradprobe.vlm.families.base import IMAGE, TINY_TEXT, TINY_TOKEN, Family, Layout, Size, View
from gradprobe.vlm.families.tiles import check_lengths, runs_of, tile_views, tiled_layout

LONGEST = 4  # tiles along the longer side, by the processors' files on the hub
FAKE, OVERVIEW = "<fake_token_around_image>", "<global-img>"
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128259,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
TINY_TILES: dict[str, Any] = {  # of an image processor
    "size": {"longest_edge": 64},
    "max_image_size": {"longest_edge": 16},
}
TINY_SIGLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


class Idefics3(Family):
    """``Idefics3ForConditionalGeneration``: SigLIP tower; N is that of a tile times the picture's tiles.

    A word before each tile of the prompt names its row and column, or the overview, which comes last. These words are
    text, are never pruned, and in `gradprobe vlm cost` count among the text tokens. They also tell pictures apart: the
    model joins all pictures of a row. Frames of a video, which the processor writes like pictures of one tile, are
    pictures.

    The unit of pruning is the token, a square of ``scale_factor^2`` patches (D = 4 x 1152).

    Source: Laurencon et al., Building and better understanding vision-language models, 2024.
    """

    name = "idefics3"
    inputs = ("pixel_values", "pixel_attention_mask")
    published: ClassVar = {
        "HuggingFaceM4/Idefics3-8B-Llama3": {
            "text_config": _LLAMA_8B,
            "vision_config": SO400M | {"image_size": 364},
            "scale_factor": 2,
        }
    }

    def projector(self, model: Any) -> nn.Module:
        return model.model.connector.modality_projection

    def tower(self, model: Any) -> nn.Module:
        return model.model.vision_model

    def language(self, model: Any) -> nn.Module:
        return model.model.text_model

    def dim(self, model: Any) -> int:
        return model.config.vision_config.hidden_size * model.config.scale_factor**2

    def lengths(self, config: Any, inputs: Mapping[str, Any], parts: Sequence[int]) -> Sequence[int]:
        """Return the placeholders from one overview to the next, or of as many tiles as `processed` counts."""
        rows, columns = _grid(config)
        if inputs.get("mosaics") is not None:
            mosaics = torch.as_tensor(inputs["mosaics"]).prod(1)
            lengths = [(count + 1) * rows * columns for count in mosaics.tolist()]
        elif inputs.get("input_ids") is not None:
            prompts = torch.as_tensor(inputs["input_ids"]).tolist()
            lengths = [length for row in prompts for length in _lengths(row, config.image_token_id)]
        else:
            return parts
        return check_lengths(lengths, parts, rows * columns)

    def inputs_of_each(self, config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the tiles of each picture, its overview included, and where they are known their rows and columns."""
        rows, columns = _grid(config)
        each = [{"tiles": torch.tensor(length // (rows * columns))} for length in lengths]
        if inputs.get("mosaics") is None:
            return each
        return [own | {"mosaic": mosaic} for own, mosaic in zip(each, inputs["mosaics"], strict=True)]

    def processed(self, processor: Any, images: Sequence[Any]) -> dict[str, Any]:
        """Make a row of tiles for each image, and note rows and columns of its tiles, 0 of a single one."""
        nested = [[image] for image in images]
        made = dict(processor.image_processor(images=nested, return_tensors="pt", return_row_col_info=True))
        rows, columns = ([count for (count,) in made.pop(name)] for name in ("rows", "cols"))
        return made | {"mosaics": torch.tensor([rows, columns]).T}

    def written(self, processor: Any, inputs: Mapping[str, Tensor], length: int) -> str:
        """Return the tiles, each behind its word, row by row, and the overview."""
        tile = super().written(processor, inputs, length // int(inputs["tiles"]))
        rows, columns = inputs["mosaic"].tolist()
        lines = ("".join(f"{FAKE}<row_{i + 1}_col_{j + 1}>{tile}" for j in range(columns)) for i in range(rows))
        return "".join(f"{line}\n" for line in lines) + "\n" * (rows > 0) + f"{FAKE}{OVERVIEW}{tile}{FAKE}"

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the tiles of the picture enlarged to four of them along its longer side, as the processor cuts it."""
        vision, size = config.vision_config, size or IMAGE
        side = vision.image_size
        mosaic = _mosaic(size, side)
        return tiled_layout(size, mosaic, side, side // vision.patch_size, _grid(config))

    def grids(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[Size, ...]:
        """Return the grid of each tile and of the overview."""
        return (_grid(config),) * int(inputs["tiles"])

    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        """Draw a row of tiles for each picture; those beyond a picture's own are 0."""
        side = config.vision_config.image_size
        pixels = torch.zeros(len(layouts), max(layout.tiles for layout in layouts), 3, side, side)
        for tiles, layout in zip(pixels, layouts, strict=True):
            tiles[: layout.tiles].normal_()
        return {"pixel_values": pixels}

    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        """Return each tile, and the overview."""
        (tiles,) = inputs["pixel_values"]
        return tile_views(tiles[tiles.flatten(1).any(1)], _grid(config))

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Idefics3Config, Idefics3ImageProcessor, LlamaConfig

        config = Idefics3Config(
            vision_config=TINY_SIGLIP, text_config=LlamaConfig(**TINY_TEXT), image_token_id=TINY_TOKEN, scale_factor=2
        )
        return config, Idefics3ImageProcessor(**TINY_TILES)


def _grid(config: Any) -> Size:
    """Return rows and columns of the tokens of a tile."""
    across = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    return across, across


def _mosaic(size: Size, side: int) -> Size:
    """Return rows and columns of tiles of a picture whose longer side becomes four tiles."""
    longest = LONGEST * side
    shape = size[1] / size[0]
    if shape >= 1:
        height = int(longest / shape)
        height = max(height + height % 2, 1)  # the processor makes it even before it cuts
        return ceil(int(longest / (longest / height)) / side), LONGEST
    width = int(longest * shape)
    width = max(width + width % 2, 1)
    return LONGEST, ceil(int(longest * (width / longest)) / side)


def _lengths(row: Sequence[int], token: int) -> list[int]:
    """Return the placeholders of each picture of a prompt, whose last tile has the word of the prompt's last.

    A word may be several tokens: those between the mark before a tile, which also stands behind the last one, and it.
    """
    runs = runs_of(row, token)
    if not runs:
        return []
    mark = row[runs[-1][1]] if runs[-1][1] < len(row) else None
    words, before = [], 0
    for start, end in runs:
        between = row[before:start]
        marks = [place for place, each in enumerate(between) if each == mark]
        words.append(between[marks[-1] + 1 :] if marks else between[-1:])
        before = end
    lengths, length = [], 0
    for (start, end), word in zip(runs, words, strict=True):
        length += end - start
        if word == words[-1]:
            lengths.append(length)
            length = 0
    return lengths

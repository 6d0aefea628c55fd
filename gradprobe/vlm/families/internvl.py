"""InternVL 3 and 3.5: a picture is up to twelve tiles and an overview, and 2 x 2 patches are shuffled into a token."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradprobe.vlm.families.base import IMAGE, TINY_TEXT, TINY_TOKEN, Family, Layout, Size, View
from gradprobe.vlm.families.tiles import check_lengths, runs_of, tile_views, tiled_layout

TILES = 12  # most tiles beside the overview, by the processor's files on the hub
_QWEN = {"model_type": "qwen2", "vocab_size": 151674, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
_QWEN_05B = _QWEN | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
_QWEN_15B = _QWEN | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
_QWEN_7B = _QWEN | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_QWEN3_8B = _QWEN | {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_VIT = {"attention_bias": True}  # InternViT-300M is the default


def _of(text: dict[str, Any]) -> dict[str, Any]:
    return {"text_config": text, "vision_config": _VIT, "tie_word_embeddings": False}


class InternVL(Family):
    """``InternVLForConditionalGeneration``: InternViT tower; N is that of a tile times the picture's tiles.

    The model takes each tile for an image of its own. Here the tiles of a picture share a budget: a picture is a run of
    placeholders, which the processor puts between two marks, or as many tiles as ``num_patches`` says. Frames of a
    video, which the processor writes like pictures of one tile, are pictures.

    The unit of pruning is the token, a group of 2 x 2 patches (D = 4 x 1024).

    Source: Zhu et al., InternVL3, 2025; Wang et al., InternVL3.5, 2025.
    """

    name = "internvl"
    inputs = ("pixel_values",)
    published: ClassVar = {
        "OpenGVLab/InternVL3-1B-hf": _of(_QWEN_05B),
        "OpenGVLab/InternVL3-2B-hf": _of(_QWEN_15B),
        "OpenGVLab/InternVL3-8B-hf": _of(_QWEN_7B),
        "OpenGVLab/InternVL3_5-8B-HF": _of(_QWEN3_8B),
    }

    def projector(self, model: Any) -> nn.Module:
        return model.model.multi_modal_projector

    def tower(self, model: Any) -> nn.Module:
        return model.model.vision_tower

    def dim(self, model: Any) -> int:
        return model.model.multi_modal_projector.linear_1.in_features

    def lengths(self, config: Any, inputs: Mapping[str, Any], parts: Sequence[int]) -> Sequence[int]:
        """Return the placeholders of each run, or of as many tiles as the image processor counts."""
        if inputs.get("num_patches") is not None:
            lengths = [tiles * parts[0] for tiles in torch.as_tensor(inputs["num_patches"]).tolist()]
        elif inputs.get("input_ids") is not None:
            rows = torch.as_tensor(inputs["input_ids"]).tolist()
            lengths = [end - start for row in rows for start, end in runs_of(row, config.image_token_id)]
        else:
            return parts
        return check_lengths(lengths, parts, parts[0])

    def inputs_of_each(self, config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the tiles of each picture, its overview included."""
        rows, columns = _grid(config)
        return [{"num_patches": torch.tensor(length // (rows * columns))} for length in lengths]

    def processed(self, processor: Any, images: Sequence[Any]) -> dict[str, Any]:
        """Make tiles as the processor does for prompts; its image processor alone may make none."""
        options = getattr(type(processor), "images_kwargs", {})
        return dict(processor.image_processor(images=images, return_tensors="pt", **options))

    def written(self, processor: Any, inputs: Mapping[str, Tensor], length: int) -> str:
        """Return the placeholders between the marks of a picture."""
        start, end = (getattr(processor, f"{name}_image_token", "") for name in ("start", "end"))
        return f"{start}{super().written(processor, inputs, length)}{end}"

    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the tiles of the grid whose shape is nearest to the picture's."""
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        size, (side, _) = size or IMAGE, config.vision_config.image_size
        columns, rows = get_optimal_tiled_canvas(size, (side, side), 1, TILES)
        across = side // config.vision_config.patch_size[0]
        return tiled_layout(size, (rows, columns), side, across, _grid(config), class_tokens=1)

    def grids(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[Size, ...]:
        """Return the grid of each tile and of the overview."""
        return (_grid(config),) * int(inputs["num_patches"])

    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        """Draw the tiles of all pictures, one after another."""
        side, _ = config.vision_config.image_size
        return {"pixel_values": torch.randn(sum(layout.tiles for layout in layouts), 3, side, side)}

    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        """Return each tile, and the overview."""
        return tile_views(inputs["pixel_values"], _grid(config))

    def tiny(self) -> tuple[Any, Any]:
        from transformers import GotOcr2ImageProcessor, InternVLConfig, InternVLVisionConfig, Qwen2Config

        vision = InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        )
        config = InternVLConfig(
            vision_config=vision,
            text_config=Qwen2Config(**TINY_TEXT),
            image_token_id=TINY_TOKEN,
            image_seq_length=4,
            tie_word_embeddings=False,
        )
        return config, GotOcr2ImageProcessor(size={"height": 16, "width": 16}, crop_to_patches=True)


def _grid(config: Any) -> Size:
    """Return rows and columns of the tokens of a tile."""
    vision, scale = config.vision_config, round(1 / config.downsample_ratio)
    rows, columns = (side // patch // scale for side, patch in zip(vision.image_size, vision.patch_size, strict=True))
    return rows, columns

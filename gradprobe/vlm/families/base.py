"""Interface between `gradprobe.vlm` and a family of vision-language models; one file a family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Size = tuple[int, int]  # height and width
IMAGE: Size = (672, 672)  # pixels of an image where its size matters and none is given: LLaVA-NeXT's in the paper
TINY_TEXT: Mapping[str, Any] = {  # language model of the tiny models
    "vocab_size": 64, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": None,
}  # fmt: skip
TINY_TOKEN = 60  # their placeholder of images


@dataclass(frozen=True)
class Layout:
    """Pixels that the vision tower reads of one image, and the visual tokens that it makes of them.

    Attributes:
        size: Height and width of the image.
        seen: Height and width of the pixels that the tower reads; of tiles laid together, without their overview.
        tiles: Pictures that the tower reads: 1, or LLaVA-NeXT's tiles and overview.
        patches: Patches of each tile.
        class_tokens: Positions of the tower beside the patches of a tile.
        grids: Rows and columns of visual tokens, in the order in which the language model reads them; the first are
            those of a whole tile.
        newlines: Positions in the language model that are no visual tokens: LLaVA-NeXT ends each row of tiles with one.
        windows: Patches of each window of windowed attention (Qwen); () without.
    """

    size: Size
    seen: Size
    tiles: int
    patches: int
    class_tokens: int
    grids: tuple[Size, ...]
    newlines: int
    windows: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """N, the number of visual tokens that can be kept or dropped."""
        return sum(rows * columns for rows, columns in self.grids)

    @property
    def placeholders(self) -> int:
        """Number of positions that the image takes in the language model."""
        return self.tokens + self.newlines


@dataclass(frozen=True)
class View:
    """Picture that a block of visual tokens covers, in raster order.

    Attributes:
        title: Name of the picture among those of an image; empty for the only one.
        image: Normalised pixels as the tower reads them ``(3, H, W)``; in a ranking as people see them ``(H, W, 3)``.
        grid: Rows and columns of tokens.
    """

    title: str
    image: Any
    grid: Size


class Family(ABC):
    """Adapter of a family: its modules by role, its visual tokens, and a tiny model on which all tests run.

    An adapter has no state; the model or its configuration is an argument. Models of a family have
    ``model.model.get_image_features``, ``config.image_token_id`` and ``config.vision_config.hidden_size``.

    Attributes:
        name: ``config.model_type`` of its models.
        inputs: Arguments of ``get_image_features`` among the outputs of a processor: the pixels, then those with one
            row an image.
        published: Configurations of models on the hub by id; entries that are left out have transformers' defaults.
    """

    name: str
    inputs: tuple[str, ...]
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def projector(self, model: Any) -> nn.Module:
        """Return the module that maps visual tokens to the width of the language model."""

    @abstractmethod
    def tower(self, model: Any) -> nn.Module:
        """Return the vision tower."""

    @abstractmethod
    def dim(self, model: Any) -> int:
        """Return D, the width of a token before the projector, its `streams` included."""

    @abstractmethod
    def layout(self, config: Any, size: Size | None = None) -> Layout:
        """Return the layout of an image; without a size: of a square one, or of the only size that the tower reads."""

    @abstractmethod
    def random_inputs(self, config: Any, layouts: Sequence[Layout]) -> dict[str, Tensor]:
        """Draw images of Gaussian noise, in the form in which a processor returns several images."""

    @abstractmethod
    def views(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[View, ...]:
        """Return the pictures that the tokens of one image cover, in the order of the tokens."""

    @abstractmethod
    def tiny(self) -> tuple[Any, Any]:
        """Return the configuration of a model small enough for tests (`TINY_TEXT`), and its image processor."""

    def language(self, model: Any) -> nn.Module:
        """Return the language model without its head."""
        return model.model.language_model

    def group(self, model: Any) -> int:
        """Return the number of rows of the projector's input that make one token."""
        return 1

    def streams(self, model: Any) -> Sequence[nn.Module]:
        """Return the modules of further parts of a token, behind the projector's in its D; () for most families.

        Module i maps its part to what the language model adds to the states of the token behind layer i. All parts
        have one width. As they belong to the token, whatever an operator or a selector does to it happens to each of
        them alike.
        """
        return ()

    def tower_width(self, config: Any) -> int:
        """Return the width of the vision tower."""
        return int(config.vision_config.hidden_size)

    def newline(self, model: Any) -> Tensor | None:
        """Return the embedding between the lines of an image's tokens ``(d_l,)``; None: there is none."""
        return None

    def positions(self, model: Any, input_ids: Tensor, attention_mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Return the position ids of the unpruned model, ``(B, S)`` or ``(3, B, S)``; 0 for padding."""
        return attended_positions(attention_mask)

    def grids(self, config: Any, inputs: Mapping[str, Tensor]) -> tuple[Size, ...]:
        """Return rows and columns of the visual tokens of one image, as `Layout.grids`.

        Args:
            config: Of the model.
            inputs: Size or grid of the image, see `inputs_of_each`.
        """
        return self.layout(config).grids

    def lengths(self, config: Any, inputs: Mapping[str, Any], parts: Sequence[int]) -> Sequence[int]:
        """Return the placeholders of each picture, in the order of the prompt; a picture has a budget of its own.

        Args:
            config: Of the model.
            inputs: As the processor returns them; the text may be missing.
            parts: Placeholders of each part of what ``get_image_features`` made: of a picture in most families, of a
                tile or of all pictures of a row in others.
        """
        return parts

    def inputs_of_each(self, config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the size or grid of each picture by name, which `grids` and `written` read.

        Args:
            config: Of the model.
            inputs: As the processor returns them.
            lengths: Placeholders of each picture.
        """
        names = [name for name in self.inputs[1:] if inputs.get(name) is not None]
        return [{name: inputs[name][i] for name in names} for i in range(len(lengths))]

    def processed(self, processor: Any, images: Sequence[Any]) -> dict[str, Any]:
        """Make the inputs of the vision tower for PIL images, as the processor makes them for prompts of one each."""
        return dict(processor.image_processor(images=images, return_tensors="pt"))

    def written(self, processor: Any, inputs: Mapping[str, Tensor], length: int) -> str:
        """Return what the processor writes in a prompt in place of a picture's placeholder.

        Args:
            processor: Of the model.
            inputs: Of the picture, see `inputs_of_each`.
            length: Placeholders of the picture.
        """
        return str(processor.image_token) * length

    def convolutions(self, model: Any, layout: Layout) -> int:
        """Count the multiply-adds of the tower's convolutions in one tile."""
        convolutions = [each for each in self.tower(model).modules() if isinstance(each, nn.Conv2d | nn.Conv3d)]
        return layout.patches * sum(each.weight.numel() for each in convolutions)

    def recurrence(self, config: Any, layer: int, length: int) -> int | None:
        """Count the FLOPs of mixing positions in a layer of the language model without attention; None: it attends."""
        return None

    def vision_pairs(self, config: Any, layout: Layout) -> int:
        """Count the pairs of a query and a key over all layers of the vision tower, in one tile."""
        return config.vision_config.num_hidden_layers * (layout.patches + layout.class_tokens) ** 2


def attended_positions(attention_mask: Tensor) -> Tensor:
    """Return the numbers 0, 1, 2, ... of the attended positions of each row ``(B, S)``; 0 for padding.

    ``generate`` uses these. A plain ``forward`` with left padding counts the padding too; as these positions are
    rotary, only differences count, and both give the same logits up to rounding.

    Example:
        >>> attended_positions(torch.tensor([[0, 0, 1, 1, 1]])).tolist()
        [[0, 0, 0, 1, 2]]
    """
    return torch.where(attention_mask > 0, attention_mask.long().cumsum(-1) - 1, 0)

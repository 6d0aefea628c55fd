"""What the rest of `gradprobe.vlm` must know of a family of vision-language models; one file a family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Family(ABC):
    """An adapter: where a model's visual tokens pass before the projector, and where its tokens stand.

    It has no state; the model is an argument. A Hugging Face model of the family has ``model.model.language_model``,
    ``model.model.get_image_features`` and ``model.config.image_token_id``.

    Attributes:
        name: ``config.model_type`` of its models.
        inputs: what ``get_image_features`` takes of what a processor returns, the pixels first.
        axes: rows of a position id: 0 for a plain number, 3 for time, height and width.
    """

    name: str
    inputs: tuple[str, ...]
    axes = 0

    @abstractmethod
    def projector(self, model: Any) -> nn.Module:
        """The module that maps visual tokens to the width of the language model."""

    @abstractmethod
    def tower(self, model: Any) -> nn.Module:
        """The vision tower."""

    def group(self, model: Any) -> int:
        """How many rows of the projector's input make one token."""
        return 1

    @abstractmethod
    def dim(self, model: Any) -> int:
        """D, the width of a token before the projector."""

    def newline(self, model: Any) -> Tensor | None:
        """What stands between the lines of an image's tokens ``(d_l,)``; None: nothing does."""
        return None

    def positions(self, model: Any, input_ids: Tensor, attention_mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Position ids ``(B, S)`` or ``(3, B, S)`` that the unpruned model generates with; 0 for padding."""
        return attended_positions(attention_mask)


def attended_positions(attention_mask: Tensor) -> Tensor:
    """0, 1, 2, ... over the attended positions of each row ``(B, S)``; 0 for padding.

    It is what ``generate`` uses. A plain ``forward`` with left padding counts the padding too; as these positions are
    rotary, only differences count, and both give the same logits up to rounding.

    Example:
        >>> attended_positions(torch.tensor([[0, 0, 1, 1, 1]])).tolist()
        [[0, 0, 0, 1, 2]]
    """
    return torch.where(attention_mask > 0, attention_mask.long().cumsum(-1) - 1, 0)

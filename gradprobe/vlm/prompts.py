"""Prompts with images on their way into a language model: features, places, what is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradprobe.vlm.tower_attention import Recorded


@dataclass(frozen=True)
class VisionFeatures:
    """Output of the frozen vision tower for some images; no gradient.

    Attributes:
        tokens: ``(N_i, D)`` for each image, before the projector, in the order in which the language model reads them;
            with the streams of the family behind it, see `Family.streams`.
        slots: ``(L_i,)`` for each image: number of the token at each of its placeholders, -1 for a newline.
        rows: ``(N_i,)`` for each image: row of each token among the patches of all pictures that the tower read.
        recorded: Queries and keys of the tower; None where they were not asked for.
        patches: Rows of one picture.
        output: Output of the model's ``get_image_features``, with numbers in place of projected tokens.
        inputs: Size or grid of each image by name, see `Family.inputs_of_each`.
    """

    tokens: tuple[Tensor, ...]
    slots: tuple[Tensor, ...]
    rows: tuple[Tensor, ...] = ()
    recorded: Recorded | None = None
    patches: int = 0
    output: Any = None
    inputs: tuple[Mapping[str, Tensor], ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Batch of token sequences with images in them.

    Attributes:
        input_ids: ``(B, S)``.
        attention_mask: ``(B, S)``, 0 for padding, which may be on either side.
        positions: Position ids of the unpruned model, ``(B, S)`` or ``(3, B, S)``.
        slot: ``(B, S)``: number of the visual token within its row (images of a row are numbered on), -1 for text and
            padding, -2 for a newline.
        counts: N_i of each image of each row; ``()`` for a row without images.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    slot: Tensor
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Sequence:
    """Input of the language model: the positions that are kept, and padding.

    Attributes:
        embeds: ``(B, S', d_l)``; 0 for padding.
        attention_mask: ``(B, S')``, 0 for padding.
        positions: Original position ids, ``(B, S')`` or ``(3, B, S')``; 0 for padding.
        origin: ``(B, S')``: index of each position in the prompt, -1 for padding.
        slot: ``(B, S')``: number of the visual token within its row, -1 for text and padding, -2 for a newline.
        streams: ``(B, S', d_l)`` for each of the first layers behind which the language model adds something to the
            visual tokens, 0 elsewhere; () for most models. `VLM.reading` hands them to it.
    """

    embeds: Tensor
    attention_mask: Tensor
    positions: Tensor
    origin: Tensor
    slot: Tensor
    streams: tuple[Tensor, ...] = ()

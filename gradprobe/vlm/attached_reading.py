"""Preparation of a prompt with images for the language model of an attached pruner.

Shapes: B rows as they were given, c copies of each side by side (beams, several answers), S positions, S' of them read.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Noise, Stream
from gradprobe.view import Kept
from gradprobe.vlm.attached_prompt import ReadPrompt, following_id, read_prompt
from gradprobe.vlm.choosing import Images
from gradprobe.vlm.inside import layer_hooks
from gradprobe.vlm.inside_hooks import Dropped
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Prompt, Sequence, VisionFeatures
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.text import IGNORED


@dataclass(eq=False)
class Seen:
    """Images before the language model reads them.

    Attributes:
        inputs: Arguments of ``get_image_features`` that they were made of.
        features: Of the vision tower.
        kept: Choice, once a prompt was read: without a cache ``generate`` reads it again for each token.
        length: Positions of that prompt.
    """

    inputs: Mapping[str, Any]
    features: VisionFeatures
    kept: list[Kept] | None = None
    length: int = 0


@dataclass(frozen=True, eq=False)
class Reading:
    """Call of the model that reads a prompt.

    Attributes:
        prompt: What it leaves behind.
        sequence: What enters the language model, copies included.
        dropped: Filled by the layers.
        copies: c.
        contexts: Closed at its end.
    """

    prompt: ReadPrompt
    sequence: Sequence
    dropped: Dropped
    copies: int
    contexts: ExitStack

    @property
    def origin(self) -> Tensor:
        """Position of each that is left behind the last layer, -1 for padding ``(B c, S'')``."""
        order = self.dropped.order.repeat_interleave(self.copies, 0)
        return self.sequence.origin.gather(1, order.to(self.sequence.origin.device))


def start(pruner: Pruner, seen: Seen, given: Mapping[str, Any], labels: Tensor | None, copies: int) -> Reading:
    """Choose among the visual tokens of a prompt, and lay out what is read.

    Args:
        pruner: It chooses.
        seen: The images.
        given: Arguments of the base model.
        labels: Tokens to predict ``(B c, S)``: selectors read no word from the first one behind the images on.
        copies: c.

    Raises:
        UsageError: Text and images do not fit together, or rows of different numbers of visual tokens are to drop them
            within the language model.
    """
    rows = slice(None, None, copies)
    mask = given.get("attention_mask")
    text = {"input_ids": given["input_ids"][rows], "attention_mask": None if mask is None else mask[rows]}
    inputs = {**seen.inputs, **text}
    features = pruner.vlm.by_picture(seen.features, inputs)
    prompt = pruner.vlm.prompt(inputs, features)
    seen.length = seen.length or prompt.slot.shape[1]
    if (positions := given.get("position_ids")) is not None:
        prompt = replace(prompt, positions=_of_call(positions[..., rows, :], prompt, seen.length))
    end = _end(prompt, None if labels is None else labels[rows].to(prompt.slot.device), seen.length)
    asked = torch.arange(prompt.slot.shape[1], device=end.device) < end[:, None]
    images = Images(pruner.vlm, inputs, features, prompt, asked)
    if seen.kept is None:
        seen.kept = pruner._chosen(images)
    sequence = pruner._joined(images, seen.kept, "left")
    drops = pruner._drops(images)
    dropped, layers = (
        Dropped([], torch.arange(sequence.slot.shape[1], device=end.device).expand_as(sequence.slot)),
        None,
    )
    if drops:
        here = (sequence.origin >= 0) & (sequence.origin < end[:, None])
        last = torch.where(here, torch.arange(here.shape[1], device=here.device), 0).amax(1)
        noise = Noise(0, range(len(here))).stream(Stream.RANKING)
        positions = pruner.plan.positions
        dropped, layers = layer_hooks(pruner.vlm, sequence.slot, sequence.attention_mask, last, drops, noise, positions)
    sequence = _continued(pruner.vlm, _copied(sequence, copies), given["input_ids"], seen.length)
    read = read_prompt(sequence, prompt, copies, pruner.plan.positions == "compact", layers)
    contexts = ExitStack()
    contexts.enter_context(pruner.vlm.reading(sequence))
    return Reading(read, sequence, dropped, copies, contexts)


def _of_call(positions: Tensor, prompt: Prompt, length: int) -> Tensor:
    """Return the position ids of a call in the shape of the model's own, 0 for padding.

    Args:
        positions: As given; Qwen's may have one more axis, the text's.
        prompt: With the model's own.
        length: Places of the prompt; those generated behind it go on from its largest, where ``generate`` without a
            cache would count on from padding.
    """
    own, places = prompt.positions, torch.arange(prompt.slot.shape[1], device=prompt.slot.device)
    axes = positions[1:] if positions.ndim == own.ndim == 3 and len(positions) > len(own) else positions
    read = torch.where((prompt.attention_mask > 0) & (places < length), axes.to(own), 0)
    return torch.where(places < length, read, following_id(read) + places - length).expand_as(own)


def _copied(sequence: Sequence, copies: int) -> Sequence:
    """Return each row several times, side by side."""
    if copies == 1:
        return sequence

    def rows(x: Tensor) -> Tensor:
        return x.repeat_interleave(copies, 0)

    return Sequence(
        rows(sequence.embeds),
        rows(sequence.attention_mask),
        sequence.positions.repeat_interleave(copies, -2),
        rows(sequence.origin),
        rows(sequence.slot),
        tuple(map(rows, sequence.streams)),
    )


def _continued(vlm: VLM, sequence: Sequence, ids: Tensor, length: int) -> Sequence:
    """Return copies each with the tokens of its own behind the prompt, which is read anew without a cache.

    Args:
        vlm: The model.
        sequence: Copies of the first of each row.
        ids: All copies, ``(B c, S)``.
        length: Places of the prompt.
    """
    if ids.shape[1] == length:
        return sequence
    own = vlm.model.get_input_embeddings()(ids.to(sequence.origin.device).gather(1, sequence.origin.clamp(min=0)))
    return replace(sequence, embeds=torch.where((sequence.origin >= length)[..., None], own, sequence.embeds))


def _end(prompt: Prompt, labels: Tensor | None, length: int) -> Tensor:
    """Return the place behind the last one that selectors may read, ``(B,)``."""
    places = torch.arange(prompt.slot.shape[1], device=prompt.slot.device)
    if labels is None:
        return torch.full_like(prompt.slot[:, 0], length)
    behind = torch.where(prompt.slot != -1, places, -1).amax(1, keepdim=True)
    labelled = (labels != IGNORED) & (places > behind)
    return torch.where(labelled, places, len(places)).amin(1)

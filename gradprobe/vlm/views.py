"""Views of a vision-language model's images before the language model, as selectors see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.selectors.precision import Project, widened
from gradprobe.view import Tower, TowerLayer, Words
from gradprobe.vlm.captions import Example
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Prompt, VisionFeatures
from gradprobe.vlm.vision_features import BATCH, inputs_of


@dataclass(frozen=True)
class Projector:
    """The projector of a model, row by row.

    Attributes:
        vlm: The model.
    """

    vlm: VLM

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(..., D)`` as the language model reads them, ``(..., d)``."""
        return self.vlm.project(tokens).to(tokens.dtype)

    def widened(self, dtype: torch.dtype) -> Project | None:
        """Return the projector computed in a wider type than the model's; None where that is as wide."""
        family, model = self.vlm.family, self.vlm.model
        if torch.promote_types(model.dtype, dtype) == model.dtype:
            return None
        parts, group = 1 + len(family.streams(model)), family.group(model)
        project = widened(family.projector(model), dtype)

        def mapped(tokens: Tensor) -> Tensor:
            part = tokens.chunk(parts, -1)[0]
            with self.vlm.running():
                out = project(part.reshape(-1, part.shape[-1] // group))
            return out.reshape(*tokens.shape[:-1], out.shape[-1])

        return mapped

    @property
    def layers(self) -> tuple[nn.Linear, nn.Module, nn.Linear]:
        """The two linear layers and the activation between them.

        Raises:
            AttributeError: The projector has other layers.
        """
        projector: Any = self.vlm.family.projector(self.vlm.model)
        first, act, second = projector.linear_1, projector.act, projector.linear_2
        if [name for name, _ in projector.named_children()] != ["linear_1", "act", "linear_2"]:
            raise AttributeError("the projector has other layers besides linear_1, act and linear_2")
        return first, act, second


def tower_of(features: VisionFeatures, images: Sequence[int]) -> Tower:
    """Return the recorded layers of the vision tower for some images with equal numbers of tokens.

    Raises:
        Unavailable: Its attention to single visual tokens cannot be told.
    """
    assert features.recorded is not None
    return features.recorded.tower(features.patches, torch.stack([features.rows[i] for i in images]))


def tower_of_examples(vlm: VLM, examples: Sequence[Example]) -> Tower:
    """Run the vision tower again for examples whose features came from the cache, and return its layers.

    Raises:
        Unavailable: Its attention to single visual tokens cannot be told.
    """
    parts = []
    for start in range(0, len(examples), BATCH):
        features = vlm.vision_features(inputs_of(vlm, examples[start : start + BATCH]), attention=True)
        parts.append(tower_of(features, range(len(features.tokens))))
    return Tower(*(_joined([getattr(part, name) for part in parts]) for name in ("last", "first")))


def words_of(vlm: VLM, prompt: Prompt, asked: Tensor | None = None) -> Words:
    """Embed the text of each row of a prompt.

    Args:
        vlm: The model.
        prompt: B rows.
        asked: Mask of the positions that belong to the question, ``(B, S)``; None: all.
    """
    text = (prompt.slot == -1) & (prompt.attention_mask > 0)
    text = text if asked is None else text & asked
    order = (~text).long().argsort(dim=1, stable=True)[:, : int(text.sum(1).max())]
    with torch.no_grad():
        states = vlm.model.get_input_embeddings()(prompt.input_ids.gather(1, order))
    return Words(states, text.gather(1, order))


def _joined(layers: Sequence[TowerLayer]) -> TowerLayer:
    """Return one layer of the pictures of several passes."""
    first = layers[0]
    if len(layers) == 1:
        return first
    rows, before = [], 0
    for layer in layers:
        assert layer.rows is not None
        rows.append(layer.rows + before)
        before += layer.queries.shape[0] * (layer.queries.shape[1] - layer.prefix)
    queries, keys = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("queries", "keys"))
    return TowerLayer(queries, keys, first.heads, first.prefix, first.class_token, torch.cat(rows))

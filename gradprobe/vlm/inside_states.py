"""States within the language model that selectors read, and attention recomputed from them.

Shapes: B rows, S positions that are left, M visual tokens and T words among them, H heads over the keys of H' of them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from gradprobe.view import Unavailable, Words
from gradprobe.vlm.inside_places import Places, gather_rows, mask_rows


@dataclass(frozen=True, eq=False)
class LayerInput:
    """Input of a decoder layer, as the model hands it on.

    Attributes:
        layer: The layer.
        hidden: ``(B, S, d)``.
        rotary: Cosines and sines of the positions, ``(B, S, head)``; one row may stand for all.
        mask: Boolean or added, ``(B, 1, S, S)``; one row may stand for all. None: causal.
        projected: Keys as its projection gave them when it ran, ``(B, S, width)``; None: it has not run.
    """

    layer: Any
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor | None
    projected: Tensor | None = None

    def keys(self, places: Tensor | None = None) -> Tensor:
        """Return the keys at some places, or all, before rotation ``(B, S, H', head)``."""
        attention = self._projections()
        keys = attention.k_proj(self._normed(places)) if self.projected is None else _chosen(self.projected, places)
        return _in_heads(attention, "k_norm", keys)

    def attention(self, places: Tensor, weight: Tensor) -> Tensor:
        """Return the attention of some places to each position: mean over heads, weighted mean over places ``(B, S)``.

        Args:
            places: Queries, ``(B, R)``.
            weight: Their weights, ``(B, R)``; those of a row sum to 1.
        """
        keys, own = self.keys(), self.layer.self_attn
        queries = _in_heads(own, "q_norm", own.q_proj(self._normed(places)))
        at_queries: Any = tuple(gather_rows(x, places) for x in self.rotary)
        k, q = self._rotated(keys, self.rotary), self._rotated(queries, at_queries)
        scores = (q.unflatten(1, (k.shape[1], -1)).flatten(2, 3) @ k.mT).view(*q.shape[:3], k.shape[2])
        scores = scores.float() * own.scaling
        if self.mask is None:
            seen = torch.arange(k.shape[2], device=places.device) <= places[..., None]
            scores = scores.masked_fill(~seen[:, None], -torch.inf)
        else:
            mask = mask_rows(self.mask, places)
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return (scores.softmax(-1).mean(1) * weight[..., None].to(scores)).sum(1)

    def _normed(self, places: Tensor | None) -> Tensor:
        return self.layer.input_layernorm(_chosen(self.hidden, places))

    def _projections(self) -> Any:
        attention = getattr(self.layer, "self_attn", None)
        known = hasattr(attention, "q_proj") and hasattr(attention, "k_proj") and hasattr(self.layer, "input_layernorm")
        if not known:
            raise Unavailable(
                f"keys of a {type(self.layer).__name__} cannot be told: its projections are not known here; select "
                "outside the language model (leave @LAYER out), or by what needs no keys: divprune@2"
            )
        return attention

    def _rotated(self, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Return states ``(B, S, heads, head)`` after rotation, ``(B, heads, S, head)``."""
        rotate: Callable[..., Any] = sys.modules[type(self.layer.self_attn).__module__].apply_rotary_pos_emb
        states = states.transpose(1, 2)
        return rotate(states, states[:, :1], *rotary)[0]


@dataclass(frozen=True, eq=False)
class InsideStates:
    """States at a layer of the visual tokens that are left and of the prompt's words; a `gradprobe.view.Inside`.

    Attributes:
        layer: Number of the layer.
        arrived: Input of the layer before tokens are dropped there.
        before: Input of the layer before as it was run; None at the first layer.
        entered: Input of the first layer, ``(B, S', d)``.
        left: Places among the positions that are left.
        prompt: Places among all.
        real: True for a word, False where a row has fewer ``(B, T)``.
        behind: Mask of the words behind a visual token, ``(B, T)``.
    """

    layer: int
    arrived: LayerInput
    before: LayerInput | None
    entered: Tensor
    left: Places
    prompt: Places
    real: Tensor
    behind: Tensor

    @cached_property
    def hidden(self) -> Tensor:
        """States of the visual tokens that are left, ``(B, M, d)``."""
        return gather_rows(self.arrived.hidden, self.left.visual)

    @cached_property
    def keys(self) -> Tensor:
        """Their keys in this layer before rotation, all heads side by side, ``(B, M, width)``."""
        return self.arrived.keys(self.left.visual).flatten(2)

    @cached_property
    def words(self) -> Words:
        """States of the prompt's words."""
        return Words(gather_rows(self.arrived.hidden, self.left.words), self.real)

    @cached_property
    def word_keys(self) -> Tensor:
        """Their keys in this layer before rotation, ``(B, T, width)``."""
        return self.arrived.keys(self.left.words).flatten(2)

    @cached_property
    def first(self) -> Tensor:
        """States of all visual tokens as they entered the language model, ``(B, N, d)``."""
        return gather_rows(self.entered, self.prompt.visual)

    @cached_property
    def first_words(self) -> Words:
        """States of the prompt's words as they entered the language model."""
        return Words(gather_rows(self.entered, self.prompt.words), self.real)

    def attention(self, rows: "Literal['last'] | Tensor" = "last", layer: Literal[-1, 0] = -1) -> Tensor:
        """Return the attention to each visual token that is left, mean over heads and rows ``(B, M)``.

        Only the rows that are asked for are computed, from the layer's projections, so that any implementation of
        attention will do; the layer before has its keys already. A row of the batch without any query gives 0.

        Args:
            rows: Queries: ``last``, the prompt's last token, or a mask of words ``(B, T)``.
            layer: -1, of the layer before as it was run, or 0, of this layer as it would be.

        Raises:
            Unavailable: There is no layer before, or its projections are not known.
        """
        source = self.arrived if layer == 0 else self.before
        if source is None:
            raise Unavailable("no layer comes before layer 0 whose attention could be read; ask at layer 1 or later")
        if isinstance(rows, str):
            places, chosen = self.left.last, torch.ones_like(self.left.last)
        else:
            chosen = (rows & self.real).long()
            most = max(1, int(chosen.sum(1).max()))
            order = (1 - chosen).argsort(dim=1, stable=True)[:, :most]
            places, chosen = self.left.words.gather(1, order), chosen.gather(1, order)
        device = source.hidden.device
        weight = chosen / chosen.sum(1, keepdim=True).clamp(min=1)
        attention = source.attention(places.to(device), weight.to(device)).to(self.arrived.hidden.device)
        return attention.gather(1, self.left.visual)


def _chosen(states: Tensor, places: Tensor | None) -> Tensor:
    return states if places is None else gather_rows(states, places)


def _in_heads(attention: Any, norm: Literal["q_norm", "k_norm"], states: Tensor) -> Tensor:
    """Return queries or keys ``(B, S, heads, head)``, normalised where the layer does so."""
    states = states.unflatten(-1, (-1, attention.head_dim))
    return getattr(attention, norm)(states) if hasattr(attention, norm) else states

"""Hooks on the layers of a language model that drop visual tokens of a prompt and let the layers behind follow.

Shapes: B rows, S positions of the prompt (and of an answer behind it), S' of them left, M visual tokens, K kept.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradprobe.deferred import refuse
from gradprobe.errors import GradprobeError
from gradprobe.noise import Noise
from gradprobe.selectors.asking import keep
from gradprobe.view import Drop, Kept, Positions, View
from gradprobe.vlm.deepstack import STREAMS
from gradprobe.vlm.families.base import attended_positions
from gradprobe.vlm.inside_checks import MASKED, check_call
from gradprobe.vlm.inside_places import Left, Places, Prompt, gather_rows, mask_rows
from gradprobe.vlm.inside_states import InsideStates, LayerInput
from gradprobe.vlm.model import VLM

STREAM = 10_000  # streams of noise of the layers: each stage has its own, beside that of a selector outside


@dataclass(eq=False)
class Dropped:
    """Outcome of the latest prompt that was read.

    Attributes:
        kept: Numbers of the visual tokens that each stage left, ``(B, K)``, as ``slot`` has them.
        order: Positions that are left behind the last stage, ascending ``(B, S')``.
    """

    kept: list[Tensor]
    order: Tensor


@dataclass(eq=False)
class Pass:
    """Reading of a prompt on its way through the layers.

    Attributes:
        entered: Input of the first layer.
        copies: Rows of the batch that each row of the prompt became, side by side (beams, several answers).
        left: Positions that are left.
        before: Input of the layer before, where a selector at the next may read it.
        projected: Output of its projection of keys.
        sliced: What all layers read alike, by name: the model's, and what is left of it.
    """

    entered: Tensor
    copies: int
    left: Left
    before: LayerInput | None = None
    projected: Tensor | None = None
    sliced: dict[str, tuple[Any, Any]] = field(default_factory=dict)


class LayerHooks:
    """Hooks of one `dropping`: they drop tokens of a prompt, and keep the layers behind in step."""

    def __init__(
        self, vlm: VLM, prompt: Prompt, drops: tuple[Drop, ...], noise: Noise, positions: Positions, dropped: Dropped
    ) -> None:
        self._vlm, self._prompt, self._noise, self._dropped = vlm, prompt, noise, dropped
        language: Any = vlm.family.language(vlm.model)
        self._rotary_emb: Any = getattr(language, "rotary_emb", None)
        self._final = len(language.layers) - 1
        self._drops = {drop.layer: drop for drop in drops}
        self._compact = positions == "compact"
        self._implementation = vlm.model.config.get_text_config()._attn_implementation
        self._whole = Left.all_of(prompt)
        self._pass: Pass | None = None
        self._by_layer: dict[int, Left] = {}  # of the latest prompt, for decoding
        self._step: tuple[Any, dict[str, Any]] = (None, {})  # arguments that layers of a decoding step have in common

    def before(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments of a layer that is called; None: as they are."""
        hidden = args[0] if args else kwargs["hidden_states"]
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        past = 0 if cache is None else cache.get_seq_length(number)
        if number == 0:
            check_call(self._vlm, hidden, cache, past, self._prompt.slot)
        if past:
            return self._decode(number, args, kwargs, hidden, past)
        if number == 0:
            self._start(hidden)
        hidden, kwargs = self._read(number, layer, hidden, kwargs)
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    @property
    def held(self) -> int:
        """Tokens of the latest prompt that the first layer read, which a cache counts by."""
        return self._by_layer.get(0, self._whole).order.shape[1]

    def note_keys(self, projected: Tensor) -> None:
        """Note the keys of a layer behind which a selector may read them."""
        if self._pass is not None:
            self._pass.projected = projected

    def _start(self, hidden: Tensor) -> None:
        self._pass = Pass(hidden, len(hidden) // len(self._prompt.slot), self._whole)
        self._by_layer, self._step = {}, (None, {})
        self._dropped.kept.clear()

    def _read(self, number: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return states and keyword arguments of a layer that reads a prompt."""
        now = self._pass
        assert now is not None
        given = self._sliced(kwargs, hidden, now)
        drop = self._drops.get(number)
        if drop is not None:
            total = now.left.visual.shape[1]
            if drop.k < total:
                kept = self._ask(drop, _input(layer, hidden, given), now)
                kept = _checked(drop, kept, total, self._prompt.slot.device)
                hidden = self._drop(kept, hidden, now)
                given = self._sliced(kwargs, hidden, now)
            self._dropped.kept.append(self._prompt.slot.gather(1, now.left.visual))
        self._by_layer[number] = now.left
        now.before, now.projected = _input(layer, hidden, given) if number + 1 in self._drops else None, None
        if number == self._final:
            self._dropped.order, self._pass = now.left.order, None
        return hidden, given

    def _ask(self, drop: Drop, arrived: LayerInput, now: Pass) -> Kept:
        """Return the choice of a selector for each row of the prompt, which its copies share."""
        prompt, device, before = self._prompt, arrived.hidden.device, now.before
        if before is not None:
            before = _originals(replace(before, projected=now.projected), now.copies)
        states = InsideStates(
            layer=drop.layer,
            arrived=_originals(arrived, now.copies),
            before=before,
            entered=now.entered[:: now.copies],
            left=Places(now.left.visual, prompt.places.words, prompt.places.last).among(now.left.rank).to(device),
            prompt=prompt.places,
            real=prompt.real.to(device),
            behind=prompt.behind.to(device),
        )
        noise = self._noise.stream(self._noise.source + STREAM * (1 + drop.layer))
        with torch.no_grad():
            return keep(drop.selector, View(noise, None, place=states), drop.k)

    def _drop(self, kept: Kept, hidden: Tensor, now: Pass) -> Tensor:
        """Return the states of what is left, and note it."""
        old, now.left, now.sliced = now.left, now.left.after(kept, self._prompt.attended), {}
        hidden = gather_rows(hidden, _copied(old.rank.gather(1, now.left.order), now.copies))
        if kept.tokens is None:
            return hidden
        places = _copied(now.left.rank.gather(1, now.left.visual), now.copies).to(hidden.device)
        tokens = _copied(kept.tokens, now.copies).to(hidden)
        return hidden.scatter(1, places[..., None].expand_as(tokens), tokens)

    def _sliced(self, kwargs: dict[str, Any], hidden: Tensor, now: Pass) -> dict[str, Any]:
        """Return keyword arguments of a layer that reads what is left of a prompt; once for all layers behind."""
        if now.left is self._whole:
            return kwargs
        slices: dict[str, Any] = {
            "position_embeddings": self._rotary,
            "position_ids": self._ids,
            "attention_mask": self._square,
            STREAMS: self._streams,
        }
        new = {}
        for name, cut in slices.items():
            whole = kwargs.get(name)
            if whole is not None:
                if name not in now.sliced or now.sliced[name][0] is not whole:
                    now.sliced[name] = (whole, cut(whole, hidden, now))
                new[name] = now.sliced[name][1]
        return kwargs | new

    def _rotary(self, whole: tuple[Tensor, Tensor], hidden: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        order = _copied(now.left.order, now.copies)
        if self._compact:
            return self._rotary_emb(hidden, attended_positions(_copied(now.left.attended, now.copies)))
        return gather_rows(whole[0], order), gather_rows(whole[1], order)

    def _ids(self, whole: Tensor, hidden: Tensor, now: Pass) -> Tensor | None:
        if self._implementation not in MASKED:  # flash attention takes gaps for the ends of packed sequences
            return None
        if self._compact:
            return attended_positions(_copied(now.left.attended, now.copies))
        order = _copied(now.left.order, now.copies)
        if whole.ndim == 3:  # GLM-4.5V gives its layers all axes
            return torch.stack([gather_rows(axis, order) for axis in whole])
        return gather_rows(whole, order)

    def _streams(self, whole: tuple[Tensor, ...], hidden: Tensor, now: Pass) -> tuple[Tensor, ...]:
        order = _copied(now.left.order, now.copies)
        return tuple(gather_rows(each, order) for each in whole)

    def _square(self, whole: Tensor, hidden: Tensor, now: Pass) -> Tensor:
        order = _copied(now.left.order, now.copies)
        return mask_rows(mask_rows(whole, order).mT, order).mT

    def _decode(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor, past: int) -> Any:
        """Return the arguments of a layer that reads the next tokens; None: as they are."""
        left = self._by_layer.get(number, self._whole)
        if left is self._whole:
            return None
        key = (id(left), past, hidden.shape[1])
        if self._step[0] != key:
            self._step = (key, self._common(left, hidden, past))
        return args, kwargs | self._step[1]

    def _common(self, left: Left, hidden: Tensor, past: int) -> dict[str, Any]:
        """Return the arguments that layers with the same tokens have in common in a step of decoding."""
        copies, attended = len(hidden) // len(left.order), left.attended
        count = hidden.shape[1]  # several where an assistant's tokens are checked
        new: dict[str, Any] = {"attention_mask": None}
        if self._implementation in MASKED and (self._prompt.padded or count > 1):
            decoded = attended.new_ones(len(attended), past + count - attended.shape[1])
            mask = _copied(torch.cat([attended, decoded], 1), copies)[:, None, None].to(hidden.device)
            if count > 1:
                keys = torch.arange(past + count, device=hidden.device)
                mask = mask & (keys <= keys[past:, None])
            if self._implementation == "eager":
                mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
            new["attention_mask"] = mask
        if self._compact:
            position = attended.sum(1, keepdim=True) + past - attended.shape[1]
            position = position + torch.arange(count, device=position.device)
            new["position_embeddings"] = self._rotary_emb(hidden, _copied(position, copies).to(hidden.device))
        return new


def _copied(rows: Tensor, copies: int) -> Tensor:
    return rows if copies == 1 else rows.repeat_interleave(copies, 0)


def _originals(given: LayerInput, copies: int) -> LayerInput:
    """Return the first of each row's copies."""
    if copies == 1:
        return given
    first = slice(None, None, copies)
    cos, sin = (x if len(x) == 1 else x[first] for x in given.rotary)
    mask = given.mask if given.mask is None or len(given.mask) == 1 else given.mask[first]
    projected = None if given.projected is None else given.projected[first]
    return LayerInput(given.layer, given.hidden[first], (cos, sin), mask, projected)


def _input(layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> LayerInput:
    device, mask = next(layer.parameters()).device, kwargs.get("attention_mask")
    cos, sin = (x.to(device) for x in kwargs["position_embeddings"])
    return LayerInput(layer, hidden.to(device), (cos, sin), None if mask is None else mask.to(device))


def _checked(drop: Drop, kept: Kept, total: int, device: torch.device) -> Kept:
    """Return a choice that is one: K numbers of each row, ascending.

    Raises:
        GradprobeError: It is none.
    """
    name, index = type(drop.selector).__name__, kept.index
    if index.ndim != 2 or index.shape[1] != drop.k:
        raise GradprobeError(f"{name} was asked for {drop.k} of {total} visual tokens and gave {tuple(index.shape)}")
    wrong = (index[:, 1:] <= index[:, :-1]).any() | (index < 0).any() | (index >= total).any()
    refuse(wrong, lambda _: GradprobeError(f"{name} gave numbers that are not ascending, or not of 0..{total - 1}"))
    return Kept(index.to(device), kept.tokens)

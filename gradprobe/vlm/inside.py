"""Dropping of visual tokens within the language model, by hooks on its layers; no modelling file is touched."""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Several
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from gradprobe.noise import Noise
from gradprobe.view import Drop, Positions
from gradprobe.vlm.inside_checks import check_drops, check_model, layers_of
from gradprobe.vlm.inside_hooks import Dropped, LayerHooks
from gradprobe.vlm.inside_places import Prompt
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Sequence


@contextmanager
def dropping(
    vlm: VLM,
    slot: Tensor,
    attention_mask: Tensor,
    last: Tensor,
    drops: Several[Drop],
    noise: Noise,
    positions: Positions = "keep",
) -> Iterator[Dropped]:
    """Let the language model drop visual tokens at some layers while this is open.

    What is read at once without a past (a prompt, or a prompt with its answer) loses tokens; decoding goes on with a
    cache whose layers have different lengths. Each prompt that is read chooses anew, so that several calls of
    ``generate`` are possible, with beams and several answers a prompt too. Selectors see the prompt up to ``last`` and
    choose for a prompt with its answer what they choose for the prompt alone. A stage that keeps all tokens changes
    nothing. Images of a row share its K.

    Args:
        vlm: The model.
        slot: Number of each position's visual token, negative for others: -1 text and padding, -2 newlines ``(B, S)``.
        attention_mask: 0 for padding, on either side ``(B, S)``.
        last: Place of the prompt's last token ``(B,)``.
        drops: Stages, layers ascending, K not growing.
        noise: Random numbers of the selectors, keyed by row.
        positions: ``keep`` the original position ids, or ``compact``: number what is left 0, 1, 2, ... from the first
            drop on, with the tokens decoded afterwards.

    Yields:
        What was dropped, filled when a prompt is read.

    Raises:
        UsageError: Stages, rows, model or positions with which it is not possible; also later, of a call that cannot be
            followed: without a cache, with a static one, or in chunks.
    """
    dropped, hooks = layer_hooks(vlm, slot, attention_mask, last, drops, noise, positions)
    if hooks is None:
        yield dropped
        return
    here = get_ident()  # calls from other threads pass unchanged
    handles = listen(vlm, [drop.layer for drop in drops], lambda: hooks if get_ident() == here else None)
    try:
        yield dropped
    finally:
        for handle in handles:
            handle.remove()


def layer_hooks(
    vlm: VLM,
    slot: Tensor,
    attention_mask: Tensor,
    last: Tensor,
    drops: Several[Drop],
    noise: Noise,
    positions: Positions = "keep",
) -> tuple[Dropped, LayerHooks | None]:
    """Return what follows a prompt through the layers, and what it fills; None where nothing is dropped.

    Args:
        vlm: The model.
        slot: As of `dropping`, like the others.
        attention_mask: Padding.
        last: Last token of each prompt.
        drops: Stages.
        noise: Random numbers.
        positions: Position ids.

    Raises:
        UsageError: As of `dropping`.
    """
    attended, total = attention_mask > 0, check_drops(vlm, slot, drops)
    dropped = Dropped([], torch.arange(slot.shape[1], device=slot.device).expand_as(slot))
    if not any(drop.k < total for drop in drops):
        dropped.kept += [slot.masked_select(slot >= 0).view(len(slot), total) for _ in drops]
        return dropped, None
    check_model(vlm, attended, positions)
    return dropped, LayerHooks(vlm, Prompt.of(slot, attended, last, total), tuple(drops), noise, positions, dropped)


def listen(vlm: VLM, stages: Iterable[int], current: Callable[[], LayerHooks | None]) -> list[Any]:
    """Register hooks on the layers of the language model, and return their handles.

    Args:
        vlm: The model.
        stages: Layers at which tokens may be dropped, ascending.
        current: Returns what follows the call that is running; None: the layers run as they are.
    """
    stages, layers = list(stages), layers_of(vlm)
    first: int = stages[0]
    handles: list[Any] = []

    @torch.compiler.disable
    def before(number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hooks = current()
        return None if hooks is None else hooks.before(number, layer, args, kwargs)

    @torch.compiler.disable
    def note_keys(module: Any, args: tuple[Any, ...], projected: Tensor) -> None:
        if (hooks := current()) is not None:
            hooks.note_keys(projected)

    handles += [
        layers[number].register_forward_pre_hook(partial(before, number), with_kwargs=True)
        for number in sorted({0, max(first - 1, 0), *range(first, len(layers))})
    ]
    for number in {stage - 1 for stage in stages if stage}:
        projection = getattr(getattr(layers[number], "self_attn", None), "k_proj", None)
        if projection is not None:
            handles.append(projection.register_forward_hook(note_keys))
    return handles


def pruned_logits(
    vlm: VLM, sequence: Sequence, last: Tensor, drops: Several[Drop], noise: Noise, positions: Positions = "keep"
) -> tuple[Tensor, Tensor]:
    """Return next-token logits where visual tokens are dropped within the language model.

    Args:
        vlm: The model.
        sequence: Prompts, answers behind them included.
        last: Place of each prompt's last token in the sequence, ``(B,)``.
        drops: Stages, as of `dropping`.
        noise: Random numbers of the selectors, keyed by row.
        positions: As of `dropping`.

    Returns:
        Logits at the positions that are left ``(B, S', V)``, and their ``origin (B, S')``, as of `Sequence`.

    Raises:
        UsageError: As of `dropping`.
    """
    with dropping(vlm, sequence.slot, sequence.attention_mask, last, drops, noise, positions) as dropped:
        logits = vlm.logits(sequence)
    return logits, sequence.origin.gather(1, dropped.order)

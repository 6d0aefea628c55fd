"""Refusals of dropping within the language model: each says what is possible instead."""

from collections.abc import Sequence as Several
from typing import Any

from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.view import Drop, Positions
from gradprobe.vlm.model import VLM

MASKED = ("eager", "sdpa")  # attention implementations that take any mask
OUTSIDE = "select outside the language model: leave @LAYER out"


def layers_of(vlm: VLM) -> Any:
    """Return the decoder layers of the language model, in order."""
    return vlm.family.language(vlm.model).layers


def check_drops(vlm: VLM, slot: Tensor, drops: Several[Drop]) -> int:
    """Return the number of visual tokens of each row.

    Raises:
        UsageError: Layers that do not exist or are out of order, a K that grows, or rows with different numbers.
    """
    layers = len(layers_of(vlm))
    counts = (slot >= 0).sum(1).tolist()
    if len(set(counts)) > 1:
        raise UsageError(
            f"the rows have {', '.join(map(str, sorted(set(counts))))} visual tokens; rows that drop them within the "
            "language model need equal numbers: give the rows one by one"
        )
    total = left = counts[0] if counts else 0
    before = -1
    for drop in drops:
        name = f"{type(drop.selector).__name__.lower()}@{drop.layer}"
        if not 0 <= drop.layer < layers:
            raise UsageError(
                f"{name} is not possible: {vlm.name} has the layers 0 to {layers - 1}; type one of them behind the @"
            )
        if drop.layer <= before:
            raise UsageError(f"{name} comes behind layer {before}: give stages in ascending order of their layers")
        if total and not 1 <= drop.k <= left:
            raise UsageError(
                f"{name} is to keep {drop.k} visual tokens of the {left} that are left there; give 1 to {left}"
            )
        before, left = drop.layer, drop.k
    return total


def check_model(vlm: VLM, attended: Tensor, positions: Positions) -> None:
    """Refuse models in which layers cannot have different lengths, or positions cannot be renumbered.

    Raises:
        UsageError: The model has layers without attention, windows shorter than the sequence, an attention without
            masks for padded rows, or positions of three axes that are to be compact.
    """
    config = vlm.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or not all(hasattr(layer, "self_attn") for layer in layers_of(vlm)):
        found = ", ".join(sorted(kinds)) or "layers without attention"
        raise UsageError(f"{vlm.name} has {found}, whose state mixes all tokens read so far; {OUTSIDE}")
    _check_window(vlm, attended.shape[1])
    implementation = config._attn_implementation
    if implementation not in MASKED and not bool(attended.all()):
        raise UsageError(
            f"{vlm.name} attends by {implementation}, which takes no mask of padded rows here; "
            'load it with attn_implementation="sdpa", or give the rows one by one'
        )
    axes = "mrope_section" in (getattr(config, "rope_parameters", None) or {})
    if positions == "compact" and (axes or not hasattr(vlm.family.language(vlm.model), "rotary_emb")):
        raise UsageError(
            f"the positions of {vlm.name} have three axes (time, height, width) and cannot be renumbered; "
            "leave --positions compact out (keep is possible)"
        )


def check_call(vlm: VLM, hidden: Tensor, cache: Any, past: int, slot: Tensor) -> None:
    """Refuse a call of the language model that is neither the whole prompt nor what follows it.

    Raises:
        UsageError: The call is another.
    """
    rows, length = hidden.shape[:2]
    whole = "read the prompt at once and decode with the model's usual cache"
    if getattr(cache, "is_compileable", False):
        raise UsageError(
            "a static cache has one length for all layers, so no tokens can be dropped at some; leave "
            "cache_implementation out"
        )
    if not past and (length != slot.shape[1] or rows % len(slot)):
        raise UsageError(
            f"the language model reads {rows} x {length} positions, the prompt has {len(slot)} x {slot.shape[1]}; "
            f"{whole}: leave use_cache=False and prefill_chunk_size out"
        )
    if past:
        _check_window(vlm, past + length)


def _check_window(vlm: VLM, length: int) -> None:
    window = getattr(vlm.model.config.get_text_config(), "sliding_window", None)
    if window is not None and length > window:
        raise UsageError(
            f"{vlm.name} attends to the last {window} of {length} tokens only, counted in places, which change where "
            f"tokens are dropped; give smaller images, or {OUTSIDE}"
        )

"""Streams of visual tokens that a language model adds to its states behind its first layers (Qwen3-VL's deepstack)."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import Tensor

from gradprobe.errors import UsageError

STREAMS = "added_streams"  # argument of the decoder layers; what drops tokens between them cuts it with the states


@contextmanager
def added(language: Any, streams: tuple[Tensor, ...]) -> Iterator[None]:
    """Add stream i to the output of layer i while the language model reads a prompt.

    The model's own way needs the images themselves and stops working where tokens are dropped between its layers; this
    gives the same numbers. Only a call without a past is affected, in this thread. Beams and several answers a prompt
    share its streams.

    Args:
        language: The language model, with ``layers`` that hand on unknown arguments.
        streams: ``(B, S, d_l)`` for each of the first layers, 0 where nothing is added.

    Raises:
        UsageError: Later, of a call that reads a part of the prompt only, or a prompt with an answer behind it.
    """
    rows, length = streams[0].shape[:2]
    here = get_ident()

    def hand_on(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if get_ident() != here or (cache is not None and int(cache.get_seq_length()) > 0):
            return None
        embeds = kwargs.get("inputs_embeds")
        if embeds is None or embeds.shape[1] != length or len(embeds) % rows:
            shape = "token ids" if embeds is None else f"{embeds.shape[0]} x {embeds.shape[1]} positions"
            raise UsageError(
                f"the language model reads {shape}, the prompt has {rows} x {length}: read it at once and decode with "
                "the model's usual cache; leave use_cache=False and prefill_chunk_size out"
            )
        copies = len(embeds) // rows
        return args, kwargs | {STREAMS: tuple(stream.repeat_interleave(copies, 0) for stream in streams)}

    def add_to(number: int) -> Any:
        def add(module: Any, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            given = kwargs.get(STREAMS)
            return None if given is None or get_ident() != here else output + given[number].to(output)

        return add

    hooks = [language.register_forward_pre_hook(hand_on, with_kwargs=True)]
    layers = enumerate(language.layers[: len(streams)])
    hooks += [layer.register_forward_hook(add_to(number), with_kwargs=True) for number, layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

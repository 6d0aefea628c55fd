"""Fingerprint of everything between a user's images and text and a model's parameters."""

import json
from hashlib import sha256
from typing import Any

from gradprobe.vlm.model import VLM

_OF_A_RUN = frozenset({"transformers_version", "padding", "truncation"})  # traces of the last use


def inputs_fingerprint(vlm: VLM) -> str:
    """Return ``sha256:`` and 16 hex digits of the hash of a model's configuration, processor and tokenizer.

    Beside the parameters these decide the model's answers: which layer of the tower is read, how images are resized
    and normalised, how text becomes tokens, how a chat is written.

    Args:
        vlm: The model; without a processor its configuration alone counts.

    Example:
        >>> from gradprobe.vlm.model import open_vlm
        >>> one, other = open_vlm("scenes-vlm"), open_vlm("scenes-vlm")
        >>> other.processor.image_processor.image_mean = [0.5, 0.5, 0.5]
        >>> [inputs_fingerprint(one) == inputs_fingerprint(each) for each in (open_vlm("scenes-vlm"), other)]
        [True, False]
    """
    generation = getattr(vlm.model, "generation_config", None)
    processor = vlm.processor
    tokenizer = getattr(processor, "tokenizer", None)
    parts: dict[str, Any] = {
        name: _plain(to_dict())
        for name, thing in (("config", vlm.model.config), ("generation", generation), ("processor", processor))
        if (to_dict := getattr(thing, "to_dict", None)) is not None  # a processor of one's own need not have it
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts["tokenizer"] = None if backend is None else _plain(json.loads(backend.to_str()))
    for name in ("chat_template", "special_tokens_map"):
        parts[name] = [getattr(thing, name, None) for thing in (processor, tokenizer)]
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"sha256:{sha256(text.encode()).hexdigest()[:16]}"


def _plain(value: Any) -> Any:
    """Leave out private fields, such as the path that a value was read from, and traces of a run."""
    if isinstance(value, dict):
        return {str(n): _plain(v) for n, v in value.items() if not str(n).startswith("_") and n not in _OF_A_RUN}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value

"""Hooks by which a model of the user's own reads pruned prompts, whoever calls it."""

import inspect
from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gradprobe.errors import UsageError
from gradprobe.models.scored import Scored
from gradprobe.vlm.attached_prompt import ReadPrompt, check_mask, widened
from gradprobe.vlm.attached_reading import Reading, Seen, start
from gradprobe.vlm.inside import listen
from gradprobe.vlm.inside_hooks import LayerHooks
from gradprobe.vlm.prompts import VisionFeatures
from gradprobe.vlm.pruner import Pruner

_between_graphs = torch.compiler.disable  # a compiled model calls the hooks between its graphs
_WHOLE = "give the whole prompt, images included, in one call without a cache"


@dataclass
class Call(local):
    """State of the call that runs in this thread.

    Attributes:
        labels: Tokens to predict.
        reading: The prompt, where one is read.
        layers: Follows the layers, where tokens are dropped within the language model.
    """

    labels: Tensor | None = None
    reading: Reading | None = None
    layers: LayerHooks | None = None


class Attached:
    """Hooks on a model, its base model and its layers; stands in the place of its ``get_image_features``."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner, self._vlm, self._call = pruner, pruner.vlm, Call()
        self._seen = WeakTensorKeyDictionary()  # by the first image's features, which generate() hands on
        layers = [stage.layer for stage in pruner.plan.at(pruner.layers).inside if stage.layer is not None]
        model = pruner.vlm.model
        self._base = model.model
        self._names = tuple(inspect.signature(type(self._base).forward).parameters)[1:]
        self.__wrapped__ = self._base.get_image_features  # inspect.signature finds it
        self._arguments = tuple(name for name in inspect.signature(self).parameters if name != "kwargs")
        self._base.get_image_features = self
        self._handles = [
            model.register_forward_pre_hook(self._note_labels, with_kwargs=True),
            model.register_forward_hook(self._forget_labels, always_call=True),
            self._base.register_forward_pre_hook(self._before, with_kwargs=True),
            self._base.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]
        if layers:
            self._handles += listen(self._vlm, layers, lambda: self._call.layers)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse, as a copy of the model would call this one, and a file of it would hold code.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "a model with a pruner inside can be neither copied nor pickled; gp.vlm.detach(model) first, or write its "
            "weights: model.save_pretrained(folder)"
        )

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        del self._base.__dict__["get_image_features"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's own features of images, with what a choice among them needs."""
        given = dict(zip(self._arguments, args, strict=False)) | kwargs
        as_dict = given.pop("return_dict", None)
        stage = self.pruner.plan.outside
        features = self._vlm.vision_features(given, stage is not None and not isinstance(stage.selector, Scored))
        if not features.tokens:
            return self.__wrapped__(*args, **kwargs)
        output = features.output
        lengths = [len(tokens) for tokens in features.tokens]
        every = torch.cat(features.tokens)
        with torch.no_grad():
            output.pooler_output = self._placed(self._vlm.project(every).split(lengths), features)
            if streams := self._vlm.streams(every):
                output.deepstack_features = [self._placed(each.split(lengths), features) for each in streams]
        self._seen[output.pooler_output[0]] = Seen(given, replace(features, output=None))
        return output.to_tuple() if as_dict is False else output

    def _placed(self, rows: Several[Tensor], features: VisionFeatures) -> list[Tensor]:
        """Return what stands at the placeholders of each image, ``(L, d)``."""
        newline = self._vlm.family.newline(self._vlm.model)
        embeds = []
        for own, slots in zip(rows, features.slots, strict=True):
            here = own[slots.clamp(min=0)]
            embeds.append(here if newline is None else torch.where((slots >= 0)[:, None], here, newline.to(here)))
        return embeds

    @_between_graphs
    def _note_labels(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call.labels = kwargs.get("labels")

    @_between_graphs
    def _forget_labels(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self._call.labels = None

    @_between_graphs
    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments of the base model: of a prompt what is kept, and of what follows its true places."""
        given = dict(zip(self._names, args, strict=False)) | kwargs
        cache = given.get("cache", given.get("past_key_values"))
        past = 0 if cache is None else cache.get_seq_length()
        images = self._images(given)
        if images is None:
            prompt = ReadPrompt.of_cache(cache) if past else None
            if prompt is None:
                return None
            self._call.layers = prompt.layers
            return (), prompt.next_call(given, past)
        if past:
            raise UsageError(f"images behind what is in the cache already are not possible; {_WHOLE}")
        if given.get("input_ids") is None:
            raise UsageError("images without input_ids have no place in the prompt; give input_ids")
        check_mask(given.get("attention_mask"))
        if getattr(cache, "is_compileable", False):
            raise UsageError("a static cache reckons with all tokens of a prompt; leave cache_implementation out")
        seen, copies = images
        self._call.reading = now = start(self.pruner, seen, given, self._call.labels, copies)
        self._call.layers = now.prompt.layers
        gone = [name for name in (*self._arguments, "mm_encoder_outputs", "mm_token_type_ids") if name in given]
        read: dict[str, Any] = dict.fromkeys([*gone, "input_ids"])
        read |= {"inputs_embeds": now.sequence.embeds, "attention_mask": now.sequence.attention_mask}
        return (), {**given, **read, "position_ids": now.sequence.positions}

    def _images(self, given: Mapping[str, Any]) -> tuple[Seen, int] | None:
        """Return the images of a call, and the number of copies of each of its rows; None: it has no images.

        Raises:
            UsageError: It has videos, or features that were made in another way.
        """
        made = given.get("mm_encoder_outputs") or {}
        if made.get("video") is not None or given.get("pixel_values_videos") is not None:
            raise UsageError("videos are not pruned; give images only, or gp.vlm.detach(model) first")
        output, pixels = made.get("image"), self._vlm.family.inputs[0]
        if output is None:
            if given.get(pixels) is None:
                return None
            output = self(**{name: given[name] for name in self._arguments if name in given})
        features = output.pooler_output
        seen = self._seen.get(features[0]) if len(features) else None
        if seen is None:
            raise UsageError(
                f"image features of another call, or of a part of a prompt, are not possible; give {pixels}, and leave "
                "prefill_chunk_size out"
            )
        return seen, len(features) // len(seen.features.tokens)

    @_between_graphs
    def _after(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the output of the base model with states at all positions of a prompt."""
        now, self._call.reading, self._call.layers = self._call.reading, None, None
        if now is None:
            return None
        now.contexts.close()
        if output is None:  # an exception is on its way
            return None
        states, *others = output if isinstance(output, tuple) else output.to_tuple()
        for each in others:
            if hasattr(each, "get_seq_length"):
                now.prompt.note(each)
        states = widened(states, now.origin, now.prompt.length)
        if isinstance(output, tuple):
            return (states, *others)
        output.last_hidden_state = states
        return output

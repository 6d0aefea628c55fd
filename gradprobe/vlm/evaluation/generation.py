"""Answers of a model, pruned or not, to prompts with images; what lmms-eval's requests become, without lmms-eval."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gradprobe.errors import Notice, UsageError
from gradprobe.vlm.deploy import batch_of
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner

NEW_TOKENS = 128  # where a request does not say
READ = ("until", "max_new_tokens", "do_sample", "temperature", "top_p", "num_beams")
IGNORED = ("image_aspect_ratio",)  # of other models' processors


@dataclass(frozen=True)
class Request:
    """Prompt to be answered.

    Attributes:
        prompt: Its text.
        images: Function that returns its images; called when its turn comes.
        options: Settings of generation, of `READ`.
    """

    prompt: str
    images: Callable[[], Sequence[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answering:
    """A model that answers requests.

    Attributes:
        model: The model, or its pruner.
        batch_size: Requests that are answered together, at most.
    """

    model: VLM | Pruner
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size={self.batch_size} is not possible; give a whole number of at least 1")

    @property
    def vlm(self) -> VLM:
        """The model that is asked."""
        return self.model.vlm if isinstance(self.model, Pruner) else self.model

    def answers(self, requests: Sequence[Request]) -> list[str]:
        """Return the text of each answer."""
        return [text for batch in self.batches(requests) for text in self.answered(batch)]

    def batches(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        """Yield requests in their order, as many as are answered together: neighbours with the same options."""
        start = 0
        while start < len(requests):
            end = start + 1
            while (
                end < min(len(requests), start + self.batch_size) and requests[end].options == requests[start].options
            ):
                end += 1
            yield requests[start:end]
            start = end

    def answered(self, batch: Sequence[Request]) -> list[str]:
        """Return the text of each answer of requests with the same options, cut at the first text of ``until``."""
        rows = [(request.images(), request.prompt) for request in batch]
        inputs = batch_of(self.vlm, rows)
        if len(rows) > 1 and self._apart(inputs):
            return [text for request in batch for text in self.answered([request])]
        options = generation_options(batch[0].options)
        new_tokens = options.pop("max_new_tokens")
        ids = self._generated(inputs, new_tokens, options)
        processor: Any = self.vlm.processor
        texts = processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [cut(text.strip(), batch[0].options.get("until")) for text in texts]

    def _generated(self, inputs: Mapping[str, Any], new_tokens: int, options: Mapping[str, Any]) -> torch.Tensor:
        if isinstance(self.model, Pruner):
            return self.model.generate(inputs, max_new_tokens=new_tokens, options=options)
        vlm = self.model
        given = {
            name: value.to(vlm.device, vlm.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.no_grad(), vlm.running():
            new: torch.Tensor = vlm.model.generate(**given, max_new_tokens=new_tokens, **options)
        return new

    def _apart(self, inputs: Mapping[str, Any]) -> bool:
        """Return True if rows cannot drop tokens inside the language model together."""
        if not (isinstance(self.model, Pruner) and self.model.plan.inside):
            return False
        places = torch.as_tensor(inputs["input_ids"]) == self.vlm.model.config.image_token_id
        return len(set(places.sum(1).tolist())) > 1


def generation_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of transformers for those of a task; greedy unless it asks for a temperature.

    Raises:
        UsageError: A number that is not possible.

    Example:
        >>> generation_options({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1})
        {'max_new_tokens': 16, 'do_sample': False, 'num_beams': 1}
        >>> generation_options({"temperature": 0.5, "until": ["."]})
        {'max_new_tokens': 128, 'do_sample': True, 'num_beams': 1, 'temperature': 0.5}
    """
    if others := sorted(set(options) - {*READ, *IGNORED}):
        warnings.warn(Notice(f"options of generation that are not read here: {', '.join(others)}"), stacklevel=3)
    temperature = float(options.get("temperature") or 0)
    new_tokens, beams = int(options.get("max_new_tokens") or NEW_TOKENS), int(options.get("num_beams") or 1)
    if temperature < 0 or new_tokens < 1 or beams < 1:
        raise UsageError(
            f"temperature {temperature:g}, max_new_tokens {new_tokens} and num_beams {beams} are not possible; "
            "give a temperature of at least 0 and counts of at least 1"
        )
    sample = bool(options.get("do_sample", True)) and temperature > 0
    made: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": sample, "num_beams": beams}
    if sample:
        made["temperature"] = temperature
        if options.get("top_p") is not None:
            made["top_p"] = float(options["top_p"])
    return made


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """Return a text up to the first of some stops.

    Example:
        >>> cut("a cat. A dog", [".", "dog"]), cut("yes", None)
        ('a cat', 'yes')
    """
    stops = [until] if isinstance(until, str) else until or ()
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)].strip() if places else text

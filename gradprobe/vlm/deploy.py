"""Deployment: a vision-language model that reads only the tokens that a scorer keeps, and the scorer's files."""

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.core import top_k
from gradprobe.devices import cuda_available, device_named, supports_bfloat16
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.backbones import frozen
from gradprobe.models.scorer_file import load_scorer, save_scorer, scorer_path
from gradprobe.ranges import check_numbers
from gradprobe.vlm.model import VLM, Sequence, VisionFeatures, open_vlm
from gradprobe.vlm.placeholders import Placeholders
from gradprobe.vlm.sequence import assemble

SAME = {"family": "family", "tower": "tower", "tower_width": "width", "dim": "token width", "text_width": "text width"}


@dataclass(frozen=True)
class Budget:
    """Number of visual tokens kept of an image: K, or a share of its N.

    Attributes:
        k: K; an image with fewer tokens keeps all.
        ratio: Share K / N in (0, 1], at least one token; instead of ``k``.

    Example:
        >>> Budget(k=64).of(576), Budget(k=64).of(40), Budget(ratio=0.111).of(576)
        (64, 40, 64)
    """

    k: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.ratio is None):
            raise UsageError("give either --k (tokens kept an image) or --ratio (their share, e.g. --ratio 0.111)")
        check_numbers({"k": self.k, "ratio": self.ratio})

    def of(self, n: int) -> int:
        """Return K for an image of ``n`` tokens."""
        return min(self.k, n) if self.k is not None else max(1, round((self.ratio or 1) * n))


@dataclass(frozen=True)
class Pruner:
    """Vision-language model that reads the visual tokens which a scorer ranks first, and nothing of the others.

    Kept tokens stay in their order at their original position ids; each image has its own budget; a prompt without
    images is read as it is. All methods run without gradient. A prompt that ends in an image goes on after the
    last token kept; a language model with a sliding window counts kept tokens only.

    Attributes:
        vlm: The model.
        scorer: Tokens ``(B, N, D)`` -> scores ``(B, N)``.
        budget: K, or its share of N.
        metadata: Content of its ``scorer.json``; empty for one that was made by hand.

    Source: DiffPrune, section 4.1 (Eq. 3 at inference: throttler and denoiser are left out).
    """

    vlm: VLM
    scorer: nn.Module
    budget: Budget
    metadata: dict[str, Any] = field(default_factory=dict)

    def choose(self, features: VisionFeatures) -> list[Tensor]:
        """Return the tokens to keep of each image ``(K_i,)``, ascending; images of equal N are scored together.

        Raises:
            GradprobeError: Scores that are no numbers.
        """
        kept: list[Tensor] = [torch.empty(0)] * len(features.tokens)
        sizes = [len(tokens) for tokens in features.tokens]
        parameter = next(self.scorer.parameters(), torch.empty(0))
        for n in sorted(set(sizes)):
            which = [i for i, size in enumerate(sizes) if size == n]
            tokens = torch.stack([features.tokens[i] for i in which])
            with torch.no_grad(), frozen(self.scorer):
                scores = self.scorer(tokens.to(parameter.dtype))
            if not bool(scores.isfinite().all()):
                raise GradprobeError(
                    "the scorer gave scores that are no numbers; open the model with --dtype float32, or train again"
                )
            for i, chosen in zip(which, top_k(scores, self.budget.of(n)), strict=True):
                kept[i] = chosen
        return kept

    def kept(self, inputs: Mapping[str, Any]) -> list[list[Tensor]]:
        """Return the tokens to keep: for each row, for each of its images, ascending indices ``(K_i,)``."""
        features = self.vlm.vision_features(inputs)
        kept = iter(self.choose(features))
        return [[next(kept) for _ in counts] for counts in self.vlm.prompt(inputs, features).counts]

    def sequence(self, inputs: Mapping[str, Any], pad: str = "left") -> Sequence:
        """Return the input of the language model: text, newlines and the tokens kept.

        Args:
            inputs: As the model's processor returns them; rows may be padded on either side.
            pad: Side on which shorter rows are padded afterwards; ``left`` to generate.
        """
        features = self.vlm.vision_features(inputs)
        prompt = self.vlm.prompt(inputs, features)
        kept, images = self.choose(features), 0
        tokens, index = [], []
        for counts in prompt.counts:
            which, first = [torch.zeros(0, dtype=torch.long, device=self.vlm.device)], 0
            some = [torch.zeros(0, self.vlm.dim, device=self.vlm.device, dtype=self.vlm.model.dtype)]
            for count in counts:
                which.append(kept[images] + first)
                some.append(features.tokens[images][kept[images]])
                first, images = first + count, images + 1
            tokens.append(torch.cat(some))
            index.append(torch.cat(which))
        with torch.no_grad():
            return assemble(self.vlm, prompt, tokens, index, pad)

    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return next-token logits at the positions kept ``(B, S', V)``, rows padded on the left."""
        with torch.no_grad():
            return self.vlm.logits(self.sequence(inputs))

    def generate(
        self, inputs: Mapping[str, Any], *, max_new_tokens: int = 64, options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Continue each row; the result begins with ``input_ids``, as that of the unpruned model does.

        Args:
            inputs: As the model's processor returns them.
            max_new_tokens: Largest number of new tokens.
            options: Options of the model's own ``generate``, such as ``{"do_sample": False}``.

        Returns:
            Token ids ``(B, S + new)``.

        Raises:
            UsageError: An option that would change what is read or returned.
        """
        options = {"use_cache": True, **(options or {})}
        if not options["use_cache"]:  # without a cache it drops a mask of ones, and takes gaps for packed sequences
            raise UsageError("use_cache=False is not possible with pruned tokens; leave it out")
        if options.get("return_dict_in_generate"):
            raise UsageError("return_dict_in_generate is not possible here; leave it out: token ids are returned")
        sequence = self.sequence(inputs)
        with torch.no_grad(), self.vlm.running():
            new = self.vlm.model.generate(
                inputs_embeds=sequence.embeds,
                attention_mask=sequence.attention_mask,
                position_ids=sequence.positions,
                max_new_tokens=max_new_tokens,
                **options,
            )
        ids = torch.as_tensor(inputs["input_ids"], device=new.device)
        return torch.cat([ids.repeat_interleave(len(new) // len(ids), 0), new], 1)


def inputs_of(vlm: VLM, images: Several[Any], prompt: str) -> Mapping[str, Any]:
    """Make the inputs of a model for one prompt with images.

    Args:
        vlm: Model with a processor.
        images: PIL images.
        prompt: Text with the placeholder of each image (taken as it is), or without: then it goes through the chat
            template of the model, images first, or simply after the images where there is no template.

    Raises:
        UsageError: There is no processor, the placeholders do not fit the images, or the processor refuses them.
    """
    if vlm.processor is None:
        raise UsageError(f"{vlm.name} was opened without a processor; use open_vlm, or VLM.of(model, processor)")
    places = Placeholders.of(vlm.processor)
    place = places.image
    advice = f"write {place} once for each image, or not at all"
    if fault := places.fault_of_prompt(prompt, len(images)):
        raise UsageError(f"the prompt {fault}; {advice}")
    if place not in prompt:
        if getattr(vlm.processor, "chat_template", None):
            content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            prompt = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
        else:
            prompt = " ".join([*[place] * len(images), prompt])
    try:
        return vlm.processor(images=list(images) or None, text=[prompt], return_tensors="pt")
    except (ValueError, TypeError, IndexError, KeyError) as error:
        sizes = ", ".join(" x ".join(map(str, image.size)) for image in images if hasattr(image, "size"))
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"the processor of {vlm.name} refuses prompt or images ({sizes}): {reason}") from None


def save(folder: Path | str, scorer: nn.Module, metadata: Mapping[str, Any]) -> Path:
    """Write the scorer of a pruner into a folder, which is made if need be; see `gradprobe.models.scorer_file`.

    Args:
        folder: Folder to write to.
        scorer: Network as ``metadata["scorer"]`` makes it.
        metadata: ``{**vlm.metadata, "scorer": spec, "k": K or "ratio": share, "op": name, ...}``, JSON.

    Raises:
        UsageError: ``metadata`` lacks what `load` needs.
        GradprobeError: The folder cannot be written.
    """
    if lacking := {*SAME, "model", "scorer"} - set(metadata):
        raise UsageError(f"the description of the pruner lacks {', '.join(sorted(lacking))}")
    _budget(metadata)
    return save_scorer(scorer, folder, metadata).parent


def load(
    folder: Path | str,
    model: Any = None,
    device: str = "cpu",
    dtype: str | None = None,
    trust: Collection[Path | str] = (),
) -> Pruner:
    """Load a trained scorer and join it to its model.

    Args:
        folder: Folder that ``gradprobe vlm train --out`` wrote, or result of a retention on a vision-language model.
        model: A `VLM`, a Hugging Face model, a hub id or a folder; None: the model that the scorer was trained on.
        device: Device on which a model given by name is opened.
        dtype: Type of such a model; None: ``float32`` on a CPU, ``bfloat16`` elsewhere.
        trust: Python files that its ``scorer.json`` may name and that may run.

    Raises:
        UsageError: There is no scorer, it names Python code that is not trusted, or it was trained on another kind of
            model.
        GradprobeError: Its files, or the model, cannot be read.
    """
    folder = Path(folder)
    if not scorer_path(folder).is_file():
        raise UsageError(
            f"there is no pruner in {folder}; train one: gradprobe vlm train --model scenes-vlm --k 11 --out {folder}"
        )
    scorer = load_scorer(folder, trust)
    metadata = scorer.metadata
    if "model" not in metadata and metadata.get("task") != "captioning":
        remedy = "deploy it with gp.prune(vit, gp.load_scorer(folder), k)"
        raise UsageError(
            f"the scorer in {folder} was trained on {metadata.get('backbone')}, no vision-language model; {remedy}"
        )
    home = str(metadata.get("model", metadata.get("backbone")))
    try:
        budget = _budget(metadata)
    except UsageError as error:
        raise GradprobeError(f"{folder} holds no pruner that can be read ({error}); train it again") from None
    if model is None or isinstance(model, str | Path):
        model = open_vlm(str(model or home), device=device, dtype=dtype or _default_dtype(device))
    vlm = model if isinstance(model, VLM) else VLM.of(model)
    if any(metadata[name] != vlm.metadata[name] for name in SAME if name in metadata):
        raise UsageError(
            f"the pruner in {folder} belongs to another model: it was trained on {_described(metadata, home)}; this is "
            f"{_described(vlm.metadata, vlm.name)}; give --model {home}"
        )
    return Pruner(vlm, scorer.network.to(vlm.device), budget, metadata)


def _budget(metadata: Mapping[str, Any]) -> Budget:
    return Budget(metadata.get("k"), metadata.get("ratio"))


def _default_dtype(device: str) -> str:
    if device == "cpu" or not cuda_available():
        return "float32"
    place = device_named("cuda" if device == "auto" else device)
    return "bfloat16" if supports_bfloat16(place) else "float16"


def _described(metadata: Mapping[str, Any], model: str) -> str:
    return f"{model} ({', '.join(f'{words} {metadata[name]}' for name, words in SAME.items() if name in metadata)})"

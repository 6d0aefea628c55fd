"""Frozen vision-language model in three steps: features of the images, positions of the prompt, logits."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.devices import check_dtype, cuda_available, device_named
from gradprobe.embedded.vlms import check_spelling, embedded_folder, training_command
from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.models.backbones import frozen
from gradprobe.models.hub import hub_or_cache
from gradprobe.models.wrappers import unwrapped
from gradprobe.vlm.deepstack import added
from gradprobe.vlm.families import family_of
from gradprobe.vlm.families.base import Family
from gradprobe.vlm.installed import no_progress_bar, transformers_module
from gradprobe.vlm.masks import biased_mask
from gradprobe.vlm.prompts import Prompt, Sequence, VisionFeatures
from gradprobe.vlm.tower_attention import recording

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class VLM:
    """Frozen Hugging Face vision-language model, split before its projector.

    The model is the user's: around each call it is in evaluation mode and its parameters ask for no gradient;
    afterwards mode and flags are as they were, also after an exception. Enter `running` to do so once for many calls.

    Attributes:
        name: Name in errors and files.
        model: The model, as ``AutoModelForImageTextToText`` gives it.
        family: Its adapter.
        processor: Its processor of text and images; None where inputs are made elsewhere.

    Example:
        >>> from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
        >>> from gradprobe.vlm.sequence import assemble
        >>> small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1)
        >>> config = LlavaConfig(
        ...     vision_config=CLIPVisionConfig(**small, image_size=8, patch_size=4),
        ...     text_config=LlamaConfig(**small, vocab_size=9),
        ...     image_token_index=7,
        ... )
        >>> vlm = VLM.of(LlavaForConditionalGeneration(config))
        >>> inputs = {"pixel_values": torch.rand(1, 3, 8, 8), "input_ids": torch.tensor([[1, 7, 7, 7, 7, 2]])}
        >>> features = vlm.vision_features(inputs)
        >>> prompt = vlm.prompt(inputs, features)
        >>> prompt.slot.tolist(), prompt.counts
        ([[-1, 0, 1, 2, 3, -1]], ((4,),))
        >>> kept = torch.tensor([0, 2])
        >>> sequence = assemble(vlm, prompt, [features.tokens[0][kept]], [kept])
        >>> sequence.positions.tolist(), vlm.logits(sequence).shape
        ([[0, 1, 3, 5]], torch.Size([1, 4, 9]))
    """

    name: str
    model: Any
    family: Family
    processor: Any | None = None

    @classmethod
    def of(cls, model: Any, processor: Any | None = None, name: str | None = None) -> "VLM":
        """Wrap a model of one's own; it is neither copied nor changed.

        Args:
            model: Model of a known family, for conditional generation. Wrappers that compute the same
                (``torch.compile``, data parallelism, LoRA) are taken off.
            processor: Its processor; None where inputs are made elsewhere.
            name: Name in errors and files; by default the place it was loaded from, or its class.

        Raises:
            UsageError: No family fits it; the message names the known ones.
        """
        model = unwrapped(model, name or type(model).__name__)
        config = getattr(model, "config", None)
        name = name or getattr(config, "_name_or_path", "") or type(model).__name__
        family = family_of(getattr(config, "model_type", type(model).__name__), name)
        if model.get_output_embeddings() is None:
            raise UsageError(f"{name} has no language head; load it with AutoModelForImageTextToText")
        return cls(name, model, family, processor)

    @property
    def dim(self) -> int:
        """D, the width of a visual token before the projector, its streams included."""
        return self.family.dim(self.model)

    @property
    def device(self) -> torch.device:
        """Device of the language model's embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def metadata(self) -> dict[str, Any]:
        """Description of the model in a pruner's file, in JSON types."""
        vision = self.model.config.vision_config
        return {
            "model": self.name,
            "family": self.family.name,
            "tower": str(vision.model_type),
            "tower_width": self.family.tower_width(self.model.config),
            "text_width": int(self.model.config.get_text_config().hidden_size),
            "dim": self.dim,
        }

    def running(self) -> AbstractContextManager[None]:
        """Hold the model in evaluation mode without gradients for parameters; mode and flags are restored after."""
        return frozen(self.model)

    def vision_features(self, inputs: Mapping[str, Any], attention: bool = False) -> VisionFeatures:
        """Run the vision tower once.

        A hook on the projector records its input and replaces its output by row numbers (plus a half, so that no
        newline looks like one). The model's own handling of its features (cutting padding away, newlines, the order of
        windows) then tells which row stands where.

        Args:
            inputs: Output of a processor: ``pixel_values`` and what belongs to them.
            attention: Record queries and keys of the tower too.

        Returns:
            One entry an image, of all rows in order; none without images. Of a family whose tiles are told apart by the
            text alone, an entry a tile where that is missing, see `by_picture`.
        """
        arguments = {name: inputs[name] for name in self.family.inputs if inputs.get(name) is not None}
        pixels = self.family.inputs[0]
        if pixels not in arguments or len(arguments[pixels]) == 0:
            return VisionFeatures((), ())
        arguments = {name: torch.as_tensor(value, device=self.device) for name, value in arguments.items()}
        arguments[pixels] = arguments[pixels].to(self.model.dtype)
        group, parts = self.family.group(self.model), self._parts
        recorded: dict[nn.Module, list[Tensor]] = {part: [] for part in parts}
        here = get_ident()  # other threads may project meanwhile

        def record(module, args):
            if get_ident() != here:
                return None
            recorded[module].append(args[0].detach())
            return args[0].reshape(-1, args[0].shape[-1])[:group]  # one token, whose projection is thrown away

        def number(module, args, output):
            if get_ident() != here:
                return None
            *lead, last = recorded[module][-1].shape[:-1]
            shape = (*lead, last // group)
            codes = torch.arange(math.prod(shape), device=output.device) + 0.5
            return codes[:, None].expand(-1, output.shape[-1]).reshape(*shape, -1)

        hooks = [part.register_forward_pre_hook(record) for part in parts]
        hooks += [part.register_forward_hook(number) for part in parts]
        try:
            with torch.no_grad(), self.running(), ExitStack() as stack:
                seen = stack.enter_context(recording(self.family, self.model, self.name)) if attention else None
                base = self.model.model  # its class's own, where a pruner is attached to the model
                output = type(base).get_image_features(base, **arguments, return_dict=True)
        finally:
            for hook in hooks:
                hook.remove()
        (out,) = recorded[parts[0]]
        width = self.dim // len(parts)
        rows = torch.cat([each.reshape(-1, width).to(self.device) for part in parts for each in recorded[part]], -1)
        tokens, slots, numbers = [], [], []
        for image in output.pooler_output:
            image = image.to(self.device)
            code = image[:, 0]
            real = (image == code[:, None]).all(1) & (code % 1 == 0.5) & (code > 0) & (code < len(rows))
            numbers.append(code[real].long())
            tokens.append(rows[numbers[-1]])
            slots.append(torch.where(real, real.cumsum(0) - 1, -1))
        patches = out.shape[1] if out.ndim == 3 else 0
        features = VisionFeatures(tuple(tokens), tuple(slots), tuple(numbers), seen, patches, output)
        return self.by_picture(features, inputs)

    def by_picture(self, features: VisionFeatures, inputs: Mapping[str, Any]) -> VisionFeatures:
        """Join the parts of each picture, such as its tiles, once the inputs tell which belong together.

        Args:
            features: Of all pictures, in whatever parts.
            inputs: As the processor returns them; of some families the text says where a picture ends.

        Raises:
            UsageError: The inputs do not fit the parts.
        """
        config, parts = self.model.config, [len(slots) for slots in features.slots]
        lengths = list(self.family.lengths(config, inputs, parts))
        own = tuple(self.family.inputs_of_each(config, inputs, lengths))
        if lengths == parts:
            return replace(features, inputs=own)
        real = [each >= 0 for each in torch.cat(features.slots).split(lengths)]
        slots = tuple(torch.where(each, each.cumsum(0) - 1, -1) for each in real)
        counts = [int(each.sum()) for each in real]
        tokens, rows = (torch.cat(each).split(counts) for each in (features.tokens, features.rows))
        return replace(features, tokens=tokens, slots=slots, rows=rows, inputs=own)

    def project(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(..., D)`` to the width of the language model ``(..., d_l)``; gradients pass."""
        return self._mapped(tokens, 0)

    def streams(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Map the streams of tokens ``(..., D)`` to what the language model adds, ``(..., d_l)`` for each of them."""
        return tuple(self._mapped(tokens, place) for place in range(1, len(self._parts)))

    @property
    def _parts(self) -> list[nn.Module]:
        """The modules that read the parts of a token, side by side: the projector and those of the streams."""
        return [self.family.projector(self.model), *self.family.streams(self.model)]

    def _mapped(self, tokens: Tensor, place: int) -> Tensor:
        parts = self._parts
        part = tokens.to(self.model.dtype).chunk(len(parts), -1)[place]
        with self.running():
            out = parts[place](part.reshape(-1, part.shape[-1] // self.family.group(self.model)))
        return out.reshape(*tokens.shape[:-1], out.shape[-1])

    def prompt(self, inputs: Mapping[str, Any], features: VisionFeatures) -> Prompt:
        """Find the places of the visual tokens in each row, and their position ids.

        Args:
            inputs: ``input_ids (B, S)`` with a placeholder for each visual token and newline, ``attention_mask``
                (default: all ones), and what the family needs for positions.
            features: `vision_features` of the same inputs.

        Raises:
            UsageError: The number of placeholders does not fit the images.
        """
        ids = torch.as_tensor(inputs["input_ids"], device=self.device)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask, device=self.device).long()
        places = ids == self.model.config.image_token_id
        slot = torch.full_like(ids, -1)
        counts, filled, left = [], [], iter(zip(features.tokens, features.slots, strict=True))
        for row, wanted in enumerate(places.sum(1).tolist()):
            sizes: list[int] = []
            length = 0
            while length < wanted and (image := next(left, None)) is not None:
                tokens, slots = image
                filled.append(torch.where(slots >= 0, slots + sum(sizes), -2).to(ids.device))
                sizes.append(len(tokens))
                length += len(slots)
            if length != wanted:
                raise UsageError(
                    f"row {row} of the prompt has {wanted} places for image tokens, its images fill {length}; "
                    "make text and images with the processor of this model, in one call"
                )
            counts.append(tuple(sizes))
        if next(left, None) is not None:
            total = len(features.tokens)
            raise UsageError(f"there are {total} images, but places in the prompt for {len(filled)} only")
        if filled:
            slot = slot.masked_scatter(places, torch.cat(filled))
        with torch.no_grad():
            positions = self.family.positions(self.model, ids, mask, inputs)
        return Prompt(ids, mask, positions, slot, tuple(counts))

    def reading(self, sequence: Sequence) -> AbstractContextManager[None]:
        """Hand the language model what of a sequence its arguments do not hold, on the call that reads the prompt.

        Only a call of the same length, without a past, in this thread is affected; `logits` enters it itself.
        """
        if not sequence.streams:
            return nullcontext()
        return added(self.family.language(self.model), sequence.streams)

    def logits(self, sequence: Sequence, key_bias: Tensor | None = None, self_bias: Tensor | None = None) -> Tensor:
        """Return next-token logits ``(B, S', V)``; gradients reach ``embeds`` and both biases.

        ``key_bias_j`` is added to the attention logits of every query on key j, ``self_bias_j`` stands for it where j
        looks at itself, in all layers; -inf makes a token exactly absent.

        Args:
            sequence: Result of `gradprobe.vlm.sequence.assemble`.
            key_bias: ``(B, S')``; None: nothing is added.
            self_bias: ``(B, S')``; None: ``key_bias`` holds there too.

        Raises:
            UsageError: There are biases and this model's attention cannot take them.
        """
        mask = sequence.attention_mask
        if key_bias is not None or self_bias is not None:
            self._check_biases(mask.shape[1])
            mask = biased_mask(mask, key_bias, self_bias).to(self.model.dtype)
        with self.running(), self.reading(sequence):
            hidden = self.family.language(self.model)(
                inputs_embeds=sequence.embeds, attention_mask=mask, position_ids=sequence.positions, use_cache=False
            ).last_hidden_state
            return self.model.get_output_embeddings()(hidden)

    def _check_biases(self, length: int) -> None:
        config = self.model.config.get_text_config()
        if "linear_attention" in (getattr(config, "layer_types", None) or ()):
            raise UsageError(
                f"{self.name} has layers of linear attention, which take no bias on single keys; use another throttle "
                "(gather, zero, scale, vpnoise and mean work)"
            )
        if config._attn_implementation not in ("eager", "sdpa"):
            raise UsageError(
                f"{self.name} attends by {config._attn_implementation}, which takes no bias on single keys; load it "
                'with attn_implementation="sdpa", or use another throttle (gather, zero, scale, vpnoise and mean work)'
            )
        window = getattr(config, "sliding_window", None)
        if window is not None and length > window:
            raise UsageError(
                f"{self.name} attends to the last {window} of {length} tokens only, which cannot be joined with a bias "
                "on single keys; give smaller images, or use another throttle"
            )


def open_vlm(name_or_folder: str, *, device: str = "cpu", dtype: str = "float32") -> VLM:
    """Open a model with its processor, in evaluation mode.

    Args:
        name_or_folder: An embedded model (``photos-vlm``), a hub id such as ``llava-hf/llava-1.5-7b-hf``, or a folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto`` to spread a large model over all devices.
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        UsageError: No such folder, device or dtype, or a model of no known family.
        GradprobeError: Transformers is missing or too old, or the model could not be read or fetched.

    Example:
        >>> open_vlm("scenes-vlm").dim
        128
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not possible; {nearest(dtype, DTYPES)}")
    transformers = transformers_module()
    place = device_named("cpu" if device == "auto" else device, others=["auto"])
    spread = device == "auto" and cuda_available()
    check_dtype(dtype, torch.device("cuda", 0) if spread else place, "--dtype float16 or float32")
    own = embedded_folder(name_or_folder)
    folder = own or Path(name_or_folder).expanduser()
    embedded = own is not None
    if embedded and not (folder / "model.safetensors").is_file():
        raise GradprobeError(f"no model.safetensors in {folder}; make it with {training_command(name_or_folder)}")
    if not embedded and not folder.exists() and "/" not in name_or_folder:
        check_spelling(name_or_folder)
    looks_local = name_or_folder.startswith((".", "/", "~")) or name_or_folder.count("/") > 1
    if looks_local and not folder.is_dir():
        raise UsageError(f"there is no folder {name_or_folder}; give one that holds config.json, or a hub id")
    source = str(folder) if folder.is_dir() else name_or_folder
    try:
        with nullcontext(True) if folder.is_dir() else hub_or_cache() as online:
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            family_of(config.model_type, name_or_folder)  # refuses others before their weights are fetched
            options: dict[str, Any] = {"dtype": getattr(torch, dtype), "device_map": device}
            if embedded:  # files of float32; a device map needs accelerate
                options = {"dtype": torch.float32, "device_map": None}
            with no_progress_bar(transformers) if embedded else nullcontext():
                model = transformers.AutoModelForImageTextToText.from_pretrained(
                    source, **options, trust_remote_code=False, use_safetensors=True
                )
            processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (GradprobeError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # transformers checks entries of a configuration with errors of many kinds
        reason = " ".join(str(error).split())[:200]
        where = "the folder" if folder.is_dir() else "the hub (is the id right?)"
        where = where if online else "the cache of the hub, which could not be reached (is there a network?)"
        raise GradprobeError(f"{name_or_folder} cannot be opened from {where}: {reason}") from None
    processor.tokenizer.padding_side = "left"
    if embedded:
        model.to(device=place, dtype=getattr(torch, dtype))
    return VLM.of(model.eval().requires_grad_(False), processor, name_or_folder)

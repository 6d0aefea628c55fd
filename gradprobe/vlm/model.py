"""A frozen vision-language model in three steps: see the images, assemble a sequence, read it."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.models.backbones import frozen
from gradprobe.models.wrappers import unwrapped
from gradprobe.vlm.families import FAMILIES, family_of
from gradprobe.vlm.families.base import Family
from gradprobe.vlm.installed import transformers_module
from gradprobe.vlm.masks import biased_mask

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Seen:
    """What the frozen vision tower made of images; no gradient.

    Attributes:
        tokens: ``(N_i, D)`` an image, before the projector, in the order in which the language model reads them.
        layout: ``(L_i,)`` an image: for each of its placeholders the token that stands there, -1 for a newline.
    """

    tokens: tuple[Tensor, ...]
    layout: tuple[Tensor, ...]


@dataclass(frozen=True)
class Prompt:
    """A batch of token sequences with images in them.

    Attributes:
        input_ids: ``(B, S)``.
        attention_mask: ``(B, S)``, 0 for padding, which may be on either side.
        positions: position ids of the unpruned model, ``(B, S)`` or ``(3, B, S)``.
        slot: ``(B, S)``: number of the visual token within its row (images of a row are numbered on), -1 for text and
            padding, -2 for a newline.
        counts: N_i of each image of each row; ``()`` for a row without images.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    slot: Tensor
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Sequence:
    """What the language model reads: the positions that were kept, and padding.

    Attributes:
        embeds: ``(B, S', d_l)``; 0 for padding.
        attention_mask: ``(B, S')``, 0 for padding.
        positions: the original position ids, ``(B, S')`` or ``(3, B, S')``; 0 for padding.
        origin: ``(B, S')``: which position of the prompt each one is, -1 for padding.
    """

    embeds: Tensor
    attention_mask: Tensor
    positions: Tensor
    origin: Tensor


@dataclass(frozen=True)
class VLM:
    """A frozen Hugging Face vision-language model, split before its projector.

    The model is the user's: around each call it is in evaluation mode and its parameters ask for no gradient;
    afterwards mode and flags are as they were, also after an exception. Enter `running` to do so once for many calls.

    Attributes:
        name: what errors and files call it.
        model: the model, as ``AutoModelForImageTextToText`` gives it.
        family: its adapter.
        processor: text and images to model inputs; None where inputs are made elsewhere.

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
        >>> seen = vlm.see(inputs)
        >>> prompt = vlm.prompt(inputs, seen)
        >>> prompt.slot.tolist(), prompt.counts
        ([[-1, 0, 1, 2, 3, -1]], ((4,),))
        >>> kept = torch.tensor([0, 2])
        >>> sequence = assemble(vlm, prompt, [seen.tokens[0][kept]], [kept])
        >>> sequence.positions.tolist(), vlm.logits(sequence).shape
        ([[0, 1, 3, 5]], torch.Size([1, 4, 9]))
    """

    name: str
    model: Any
    family: Family
    processor: Any | None = None

    @classmethod
    def of(cls, model: Any, processor: Any | None = None, name: str | None = None) -> "VLM":
        """Take a model of one's own; it is neither copied nor changed.

        Args:
            model: a LLaVA-1.5, LLaVA-NeXT or Qwen2.5-VL for conditional generation. Wrappers that compute the same
                (``torch.compile``, data parallelism, LoRA) are taken off.
            processor: its processor; None where inputs are made elsewhere.
            name: what errors and files call it; by default where it was loaded from, or its class.

        Raises:
            UsageError: no family fits it; the message names those that there are.
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
        """D, the width of a visual token before the projector."""
        return self.family.dim(self.model)

    @property
    def device(self) -> torch.device:
        """Where the language model reads its embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def about(self) -> dict[str, Any]:
        """What a pruner's file says of the model that it belongs to, in JSON types."""
        vision = self.model.config.vision_config
        return {
            "model": self.name,
            "family": self.family.name,
            "tower": str(vision.model_type),
            "tower_width": int(vision.hidden_size),
            "text_width": int(self.model.config.get_text_config().hidden_size),
            "dim": self.dim,
        }

    def running(self) -> AbstractContextManager[None]:
        """Evaluation mode and no gradients for parameters inside; each as found afterwards."""
        return frozen(self.model)

    def see(self, inputs: Mapping[str, Any]) -> Seen:
        """Run the vision tower once.

        A hook on the projector keeps what comes in and lets row numbers out (half a unit off, so that no newline looks
        like one); what the model then does with its features (cutting padding away, newlines, the order of windows)
        tells which row stands where.

        Args:
            inputs: as a processor returns them: ``pixel_values`` and what belongs to them.

        Returns:
            One entry an image, of all rows in order; none without images.
        """
        given = {name: inputs[name] for name in self.family.inputs if inputs.get(name) is not None}
        if self.family.inputs[0] not in given or len(given[self.family.inputs[0]]) == 0:
            return Seen((), ())
        given = {name: torch.as_tensor(value, device=self.device) for name, value in given.items()}
        given[self.family.inputs[0]] = given[self.family.inputs[0]].to(self.model.dtype)
        group, caught = self.family.group(self.model), []
        here = get_ident()  # other threads may project meanwhile

        def catch(module, args):
            if get_ident() != here:
                return None
            caught.append(args[0].detach())
            return args[0].reshape(-1, args[0].shape[-1])[:group]  # one token: what it becomes is thrown away

        def number(module, args, output):
            if get_ident() != here:
                return None
            *lead, last = caught[-1].shape[:-1]
            shape = (*lead, last // group)
            codes = torch.arange(math.prod(shape), device=output.device) + 0.5
            return codes[:, None].expand(-1, output.shape[-1]).reshape(*shape, -1)

        projector = self.family.projector(self.model)
        hooks = [projector.register_forward_pre_hook(catch), projector.register_forward_hook(number)]
        try:
            with torch.no_grad(), self.running():
                features = self.model.model.get_image_features(**given, return_dict=True).pooler_output
        finally:
            for hook in hooks:
                hook.remove()
        (rows,) = (found.reshape(-1, self.dim).to(self.device) for found in caught)
        tokens, layout = [], []
        for feature in features:
            feature = feature.to(self.device)
            code = feature[:, 0]
            real = (feature == code[:, None]).all(1) & (code % 1 == 0.5) & (code > 0) & (code < len(rows))
            tokens.append(rows[code[real].long()])
            layout.append(torch.where(real, real.cumsum(0) - 1, -1))
        return Seen(tuple(tokens), tuple(layout))

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens ``(..., D)`` -> the width of the language model ``(..., d_l)``; gradients pass."""
        rows = tokens.to(self.model.dtype).reshape(-1, self.dim // self.family.group(self.model))
        with self.running():
            out = self.family.projector(self.model)(rows)
        return out.reshape(*tokens.shape[:-1], out.shape[-1])

    def prompt(self, inputs: Mapping[str, Any], seen: Seen) -> Prompt:
        """Where the visual tokens of each row stand, and at which positions.

        Args:
            inputs: ``input_ids (B, S)`` with a placeholder for each visual token and newline, ``attention_mask``
                (default: all ones), and what the family needs for positions.
            seen: what `see` gave for the same inputs.

        Raises:
            UsageError: the placeholders are not as many as the images fill.
        """
        ids = torch.as_tensor(inputs["input_ids"], device=self.device)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask, device=self.device).long()
        places = ids == self.model.config.image_token_id
        slot = torch.full_like(ids, -1)
        counts, filled, left = [], [], iter(zip(seen.tokens, seen.layout, strict=True))
        for row, wanted in enumerate(places.sum(1).tolist()):
            sizes: list[int] = []
            length = 0
            while length < wanted and (image := next(left, None)) is not None:
                tokens, layout = image
                filled.append(torch.where(layout >= 0, layout + sum(sizes), -2).to(ids.device))
                sizes.append(len(tokens))
                length += len(layout)
            if length != wanted:
                raise UsageError(
                    f"row {row} of the prompt has {wanted} places for image tokens, its images fill {length}; "
                    "make text and images with the processor of this model, in one call"
                )
            counts.append(tuple(sizes))
        if next(left, None) is not None:
            raise UsageError(f"there are {len(seen.tokens)} images, but places in the prompt for {len(filled)} only")
        if filled:
            slot[places] = torch.cat(filled)
        with torch.no_grad():
            positions = self.family.positions(self.model, ids, mask, inputs)
        return Prompt(ids, mask, positions, slot, tuple(counts))

    def logits(self, sequence: Sequence, key_bias: Tensor | None = None, self_bias: Tensor | None = None) -> Tensor:
        """Next-token logits ``(B, S', V)``; gradients reach ``embeds`` and both biases.

        ``key_bias_j`` is added to the attention logits of every query on key j, ``self_bias_j`` stands for it where j
        looks at itself, in all layers; -inf makes a token exactly absent.

        Args:
            sequence: what `gradprobe.vlm.sequence.assemble` gave.
            key_bias: ``(B, S')``; None: nothing is added.
            self_bias: ``(B, S')``; None: ``key_bias`` holds there too.

        Raises:
            UsageError: there are biases and this model's attention cannot take them.
        """
        mask = sequence.attention_mask
        if key_bias is not None or self_bias is not None:
            self._check_biases(mask.shape[1])
            mask = biased_mask(mask, key_bias, self_bias).to(self.model.dtype)
        with self.running():
            hidden = self.model.model.language_model(
                inputs_embeds=sequence.embeds, attention_mask=mask, position_ids=sequence.positions, use_cache=False
            ).last_hidden_state
            return self.model.get_output_embeddings()(hidden)

    def _check_biases(self, length: int) -> None:
        config = self.model.config.get_text_config()
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
    """A model with its processor, in evaluation mode, by hub id or folder.

    Args:
        name_or_folder: ``scenes-vlm`` (embedded), a hub id such as ``llava-hf/llava-1.5-7b-hf``, or a folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto`` to spread a large model over what there is.
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        UsageError: no such folder, device or dtype, or a model of no known family.
        GradprobeError: transformers is missing or too old, or the model could not be read or fetched.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not possible; {nearest(dtype, DTYPES)}")
    transformers = transformers_module()
    kind = torch.device("cpu" if device == "auto" else device) if _is_device(device) else None
    if kind is None or (kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count()):
        possible = "cpu, cuda, auto" if torch.cuda.is_available() else "cpu, auto"
        raise UsageError(f"--device {device} is not possible here; possible: {possible}")
    if name_or_folder == "scenes-vlm":
        from gradprobe.vlm.scenes import load_scenes_vlm

        vlm = load_scenes_vlm()
        vlm.model.to(device=kind, dtype=getattr(torch, dtype)).requires_grad_(False)
        return vlm
    looks_local = name_or_folder.startswith((".", "/", "~")) or name_or_folder.count("/") > 1
    folder = Path(name_or_folder).expanduser()
    if looks_local and not folder.is_dir():
        raise UsageError(f"there is no folder {name_or_folder}; give one that holds config.json, or a hub id")
    source = str(folder) if folder.is_dir() else name_or_folder
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type not in FAMILIES:
            family_of(config.model_type, name_or_folder)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, dtype), device_map=device, trust_remote_code=False, use_safetensors=True
        )
        processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (GradprobeError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # transformers checks entries of a configuration with errors of many kinds
        reason = " ".join(str(error).split())[:200]
        where = "the folder" if folder.is_dir() else "the hub (is there a network? is the id right?)"
        raise GradprobeError(f"{name_or_folder} cannot be opened from {where}: {reason}") from None
    processor.tokenizer.padding_side = "left"
    return VLM.of(model.eval().requires_grad_(False), processor, name_or_folder)


def _is_device(name: str) -> bool:
    try:
        return name == "auto" or torch.device(name).type in ("cpu", "cuda", "mps")
    except RuntimeError:
        return False

"""Deployment: inputs of a prompt with images, and the files of a trained scorer."""

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Several
from pathlib import Path
from typing import Any

from torch import nn

from gradprobe.devices import cuda_available, device_named, supports_bfloat16
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.scorer_file import load_scorer, save_scorer, scorer_path
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.placeholders import Placeholders
from gradprobe.vlm.pruner import Pruner

SAME = {"family": "family", "tower": "tower", "tower_width": "width", "dim": "token width", "text_width": "text width"}


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

"""Deployment: inputs of a prompt with images, and pruners from their files."""

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Several
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from gradprobe.devices import cuda_available, device_named, supports_bfloat16
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.scored import Scored
from gradprobe.models.scorer_file import load_scorer, save_scorer, scorer_path
from gradprobe.selectors.plan import Plan
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.hub import folder_of
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.placeholders import Placeholders
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.pruner_files import budget_in, plan_in

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
    return batch_of(vlm, [(images, prompt)])


def batch_of(vlm: VLM, rows: Several[tuple[Several[Any], str]]) -> Mapping[str, Any]:
    """Make the inputs of a model for several prompts, padded on the left.

    Args:
        vlm: Model with a processor.
        rows: Images and text of each prompt, as `inputs_of` takes them.

    Raises:
        UsageError: As `inputs_of`.
    """
    if vlm.processor is None:
        raise UsageError(f"{vlm.name} was opened without a processor; use open_vlm, or VLM.of(model, processor)")
    texts = [_text_of(vlm, len(images), prompt) for images, prompt in rows]
    pictures = [image for images, _ in rows for image in images]
    padding = {"padding": True} if len(rows) > 1 else {}
    try:
        return vlm.processor(images=pictures or None, text=texts, return_tensors="pt", **padding)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        sizes = ", ".join(" x ".join(map(str, image.size)) for image in pictures if hasattr(image, "size"))
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"the processor of {vlm.name} refuses prompt or images ({sizes}): {reason}") from None


def _text_of(vlm: VLM, images: int, prompt: str) -> str:
    """Return the text of a prompt with a placeholder for each image.

    Raises:
        UsageError: Placeholders in it do not fit the images.
    """
    assert vlm.processor is not None
    places = Placeholders.of(vlm.processor)
    place = places.image
    advice = f"write {place} once for each image, or not at all"
    if fault := places.fault_of_prompt(prompt, images):
        raise UsageError(f"the prompt {fault}; {advice}")
    if place in prompt:
        return prompt
    if not getattr(vlm.processor, "chat_template", None):
        return " ".join([*[place] * images, prompt])
    content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    return str(vlm.processor.apply_chat_template(messages, add_generation_prompt=True))


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
    revision: str | None = None,
) -> Pruner:
    """Load a pruner and join it to its model.

    Nothing of a repository runs: a scorer or selector whose name is that of a Python file needs the user's ``trust``.

    Args:
        folder: Folder that ``gradprobe vlm train --out`` or `Pruner.save_pretrained` wrote, result of a retention on a
            vision-language model, or id of a repository on the hub, ``user/name``.
        model: A `VLM`, a Hugging Face model, a hub id or a folder; None: the model that the pruner was made for.
        device: Device on which a model given by name is opened.
        dtype: Type of such a model; None: ``float32`` on a CPU, ``bfloat16`` elsewhere.
        trust: Python files that its files may name and that may run.
        revision: Branch, tag or commit of the repository; None: its main branch.

    Raises:
        UsageError: There is no pruner, it names Python code that is not trusted, or it was made for another kind of
            model.
        GradprobeError: Its files, or the model, cannot be read or fetched.
    """
    name, folder = str(folder), folder_of(folder, revision)
    plan = plan_in(folder, trust)
    scorer = load_scorer(folder, trust) if scorer_path(folder).is_file() else None
    if scorer is None:
        if plan is None:
            raise UsageError(
                f"there is no pruner in {name}; train one: gradprobe vlm train --model scenes-vlm --k 11 --out {name}"
            )
        vlm = _opened(model, plan.made_for.model, name, device, dtype)
        return Pruner(vlm, plan, budget_in(folder))
    metadata = scorer.metadata
    if "model" not in metadata and metadata.get("task") != "captioning":
        remedy = "deploy it with gp.prune(vit, gp.load_scorer(folder), k)"
        raise UsageError(
            f"the scorer in {name} was trained on {metadata.get('backbone')}, no vision-language model; {remedy}"
        )
    home = str(metadata.get("model", metadata.get("backbone")))
    try:
        budget = budget_in(folder) if plan else _budget(metadata)
    except UsageError as error:
        raise GradprobeError(f"{name} holds no pruner that can be read ({error}); train it again") from None
    vlm = _opened(model, home, name, device, dtype)
    if any(metadata[entry] != vlm.metadata[entry] for entry in SAME if entry in metadata):
        raise UsageError(
            f"the pruner in {name} belongs to another model: it was trained on {_described(metadata, home)}; this is "
            f"{_described(vlm.metadata, vlm.name)}; give --model {home}"
        )
    network = scorer.network.to(vlm.device)
    return Pruner(vlm, network if plan is None else with_scorer(plan, network), budget, metadata)


def with_scorer(plan: Plan, scorer: nn.Module) -> Plan:
    """Return a plan whose stages ``scored`` rank by a trained scorer."""
    scored = Scored(scorer)
    stages = (replace(each, selector=scored) if isinstance(each.selector, Scored) else each for each in plan.stages)
    return replace(plan, stages=tuple(stages))


def _opened(model: Any, home: str | None, pruner: str, device: str, dtype: str | None) -> VLM:
    """Return the model that is given, or the one of a name.

    Raises:
        UsageError: No model is named.
        GradprobeError: It cannot be opened.
    """
    if model is None and home is None:
        raise UsageError(f"the plan in {pruner} names no model; give --model photos-vlm, a hub id or a folder")
    if model is None or isinstance(model, str | Path):
        return open_vlm(str(model or home), device=device, dtype=dtype or _default_dtype(device))
    return model if isinstance(model, VLM) else VLM.of(model)


def _budget(metadata: Mapping[str, Any]) -> Budget:
    return Budget(metadata.get("k"), metadata.get("ratio"), metadata.get("average"))


def _default_dtype(device: str) -> str:
    if device == "cpu" or not cuda_available():
        return "float32"
    place = device_named("cuda" if device == "auto" else device)
    return "bfloat16" if supports_bfloat16(place) else "float16"


def _described(metadata: Mapping[str, Any], model: str) -> str:
    return f"{model} ({', '.join(f'{words} {metadata[name]}' for name, words in SAME.items() if name in metadata)})"

"""Pruning inside a model of the user's own, which is then called as ever."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from gradprobe.errors import UsageError
from gradprobe.models.wrappers import unwrapped
from gradprobe.selectors.plan import plan_of
from gradprobe.view import Selector
from gradprobe.vlm.attached_model import Attached
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import load
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner

_ATTACHED: "WeakKeyDictionary[nn.Module, Attached]" = WeakKeyDictionary()


def attach(
    model: Any,
    pruner: "str | Path | Selector | nn.Module | Pruner",
    *,
    k: int | None = None,
    ratio: float | None = None,
    average: float | None = None,
    trust: Collection[Path | str] = (),
) -> Any:
    """Let a Hugging Face model read the visual tokens that a pruner keeps, and return the model itself.

    It is called as ever: ``generate`` with its options (sampling, beams, several answers, streamers, assistants),
    ``forward`` with labels, pipelines, ``Trainer.evaluate``, several images, batches, a cache that a chat goes on with.
    Each prompt with images is chosen from anew; other calls are those of the model. Tower and projector run without
    gradient.

    Generated ids begin with the prompt. Logits of a prompt have its whole length: at a dropped token they are those of
    the last token kept before it, so that each position predicts what comes behind it and losses are those of the
    tokens read. Hidden states and attention of single layers have the length that the layer read. Selectors read no
    words from the first label behind the images on. Position ids are those of the
    call, else the original ones, also of what is generated.

    Args:
        model: Model of a known family, as ``AutoModelForImageTextToText`` gives it; wrappers such as PEFT's stay.
        pruner: Folder or hub id of a trained scorer, plan (``divprune``, ``fastv@2``, ``plan.json``), selector, scorer
            or `Pruner`.
        k: Visual tokens kept of an image.
        ratio: Their share instead.
        average: Tokens that a layer of the language model reads on average instead.
        trust: Python files that a scorer or plan may name and that may run.

    Raises:
        UsageError: The model has a pruner already, is compiled, has no weights, or is of no known family; no budget,
            or more than one; or the pruner belongs to another model. Later, of a call that cannot be followed: with
            videos, a static cache or images behind a cache; without the prompt's ids; in chunks.

    Example:
        >>> from gradprobe.vlm.model import open_vlm
        >>> vlm = open_vlm("scenes-vlm")
        >>> model = attach(vlm.model, "divprune", k=11)
        >>> model is vlm.model
        True
        >>> detach(model) is model
        True
    """
    inner = _plain(model)
    if inner in _ATTACHED:
        raise UsageError(f"{type(inner).__name__} has a pruner inside already; gp.vlm.detach(model) first")
    _ATTACHED[inner] = Attached(_pruner(inner, pruner, _budget(k, ratio, average), trust))
    return model


def detach(model: Any) -> Any:
    """Take the pruner out of a model, which is then as it was before `attach`, and return the model.

    Raises:
        UsageError: There is none in it.
    """
    inner = unwrapped(model, type(model).__name__)
    if inner not in _ATTACHED:
        raise UsageError(f"{type(inner).__name__} has no pruner inside; gp.vlm.attach(model, ...) puts one there")
    _ATTACHED.pop(inner).remove()
    return model


@contextmanager
def attached(
    model: Any,
    pruner: "str | Path | Selector | nn.Module | Pruner",
    *,
    k: int | None = None,
    ratio: float | None = None,
    average: float | None = None,
    trust: Collection[Path | str] = (),
) -> Iterator[Any]:
    """Attach a pruner while this is open; also after an exception the model is as it was.

    Args:
        model: As of `attach`, like the others.
        pruner: Pruner.
        k: Visual tokens.
        ratio: Share.
        average: Mean over layers.
        trust: Python files.

    Yields:
        The model.

    Raises:
        UsageError: As of `attach`.
    """
    attach(model, pruner, k=k, ratio=ratio, average=average, trust=trust)
    try:
        yield model
    finally:
        detach(model)


def _plain(model: Any) -> Any:
    """Return the model inside its wrappers.

    Raises:
        UsageError: It is compiled, or has no weights.
    """
    if type(model).__name__ == "OptimizedModule":
        raise UsageError("the model is compiled already and would not notice; attach first, then torch.compile(model)")
    inner = unwrapped(model, type(model).__name__)
    if any(parameter.is_meta for parameter in inner.parameters()):
        raise UsageError(
            "some weights of the model are on the meta device (not loaded, or offloaded to CPU or disk); load it onto "
            'one device, or over several GPUs: device_map="auto" with room for all of it'
        )
    return inner


def _budget(k: int | None, ratio: float | None, average: float | None) -> Budget | None:
    return None if k is ratio is average is None else Budget(k, ratio, average)


def _pruner(model: Any, given: Any, budget: Budget | None, trust: Collection[Path | str]) -> Pruner:
    vlm = VLM.of(model)
    if isinstance(given, Pruner):
        if given.vlm.model is not model:
            raise UsageError("the pruner was made for another model object; give its plan or its folder")
        made = given
    elif isinstance(given, str | Path) and _is_place(given):
        made = load(given, vlm, trust=trust)
    else:
        made = Pruner(vlm, given if isinstance(given, nn.Module) else plan_of(given, trust=trust), budget)
    made = made if budget is None else replace(made, budget=budget)
    if any(stage.scorer is None for stage in made.scored):
        raise UsageError(f"{made.plan.label} has a stage scored and no scorer; give the folder of a trained pruner")
    if made.budget is None and not made.plan.budgeted:
        raise UsageError(f"{made.plan.label} does not say how many tokens are left; give k=64, ratio= or average=")
    return made


def _is_place(given: str | Path) -> bool:
    """Tell a folder or a hub id from a plan."""
    text = str(given)
    return Path(text).expanduser().is_dir() or ("/" in text and ".py:" not in text and not text.endswith(".json"))

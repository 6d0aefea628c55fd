"""The frozen model, data and scorer that an advice is about, opened by name, and the options that name them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradprobe.core import Task
from gradprobe.errors import UsageError
from gradprobe.settings import argument
from gradprobe.tasks import maker

OPTIONS = (  # of the commands, beside --task and --backbone
    "weights", "weights_key", "image_size", "data", "class_order", "train_data", "scorer", "layer", "loss", "device",
    "dtype", "generator",
)  # fmt: skip
FILES = ("weights", "data", "train_data", "device")  # places of a question's files, for workers


@dataclass(frozen=True, kw_only=True)
class Model:
    """Arguments for a model and its data."""

    task: Task | str | None = argument(
        None, "An open task, or the name of a vision-language model, instead of a backbone."
    )
    backbone: str = argument("scenes", "``scenes`` or a timm vision transformer.")
    weights: str | None = argument(None, "A file, or ``none``; None: the backbone's own.")
    data: str | None = argument(None, "Folder of images; None: the backbone's own.")
    train_data: str | None = argument(None, "Folder that scorers are trained on; None: ``data``.")
    scorer: str = argument("mlp", "``mlp`` or ``transformer``, with fields.")
    layer: int = argument(0, "Blocks before the insertion point.")
    loss: str = argument("ce", "``ce`` or ``kl``.")
    device: str = argument("cpu", "``cpu``, ``cuda``, ...")
    dtype: str = argument("float32", "``float32``, ``bfloat16`` or ``float64``.")
    generator: str = argument("auto", "Generator of noise: ``host``, ``philox``, or ``auto``.")
    weights_key: str | None = argument(None, "Which of the models in a weights file; None: by timm's order.")
    image_size: int | str | tuple[int, int] | None = argument(None, "Pixels, or ``HxW``; None: that of the weights.")
    class_order: str | None = argument(None, "Order of the class folders, ``text`` or ``natural``; None: not said.")

    @property
    def is_open(self) -> bool:
        """True if the caller handed over an open task, which no option names."""
        return self.task is not None and not isinstance(self.task, str)


def check_model(given: Model) -> None:
    """Refuse words that mean nothing together.

    Raises:
        UsageError: an open task and words for another one, or both kinds of model.
    """
    if not isinstance(given.backbone, str):
        raise UsageError("advise opens its model by name; pass a model of your own as task=classification(...)")
    if given.is_open and typed(given):
        raise UsageError("give either task= (open) or the names of a model and its data")
    if isinstance(given.task, str) and given.backbone != "scenes":
        raise UsageError(f"give either --task {given.task} (a vision-language model) or --backbone {given.backbone}")


def opened(given: Model, seed: int) -> tuple[Any, str]:
    """Return the open task and the name of its model.

    Args:
        given: arguments that name it.
        seed: of the scorer, and of random weights.

    Raises:
        UsageError: an unknown name, or images that are not there.
    """
    if given.is_open:
        task: Any = given.task
        return task, str(task.question.get("backbone", "a model of one's own"))
    name = given.backbone if given.task is None else str(given.task)
    named = {option: getattr(given, option) for option in OPTIONS}
    return maker("classification" if given.task is None else "captioning")(name, **named, seed=seed), name


def typed(given: Model) -> dict[str, str]:
    """Return the options that were given another value than their default, as the commands take them.

    Example:
        >>> typed(Model(task="scenes-vlm", layer=2))
        {'task': 'scenes-vlm', 'layer': '2'}
    """
    defaults = {f.name: f.default for f in dataclasses.fields(Model)}
    values: dict[str, Any] = {name: getattr(given, name) for name in ("task", "backbone", *OPTIONS)}
    values["task"] = None if given.is_open else values["task"]
    return {
        name.replace("_", "-"): "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
        if value != defaults[name]
    }


def on_training_images(given: Model) -> Any:
    """Return the arguments with the images that scorers are trained on in the place of test images."""
    return given if given.train_data is None else dataclasses.replace(given, data=given.train_data, train_data=None)


def places(given: Model) -> Mapping[str, str]:
    """Return the places of a question's files, as `gradprobe.probes.opened.answered` takes them."""
    named = {name: getattr(given, name) for name in FILES}
    return {name: str(value) for name, value in named.items() if value is not None}

"""Tasks by name, and classification: a frozen vision transformer, a scorer and images."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from gradprobe.core import Batch, Selection, Tokens
from gradprobe.data.classes import check_same_classes
from gradprobe.data.fingerprints import data_fingerprint, weights_fingerprint
from gradprobe.data.image_source import FolderSource, ImageSource, SceneSource
from gradprobe.data.images import Images
from gradprobe.data.picture_cache import onto
from gradprobe.data.pixels import displayed
from gradprobe.embedded.scenes_model import MODELS
from gradprobe.errors import UsageError, in_words, nearest
from gradprobe.models.attention import tower_of
from gradprobe.models.backbones import Backbone, frozen
from gradprobe.models.fresh import both_trained, freshly_trained
from gradprobe.models.loading import load_backbone
from gradprobe.models.own_models import STATE, own_backbone, own_names, state_fingerprint
from gradprobe.noise import GENERATORS, HOST, PHILOX, Noise
from gradprobe.operators.registry import label, part
from gradprobe.ranges import check_number
from gradprobe.settings import argument, takes
from gradprobe.training.memory import halving
from gradprobe.view import Drop, Grid, Positions, View

TASKS = {  # the part of a question that says what kind of task it is about -> what makes it
    "classification": "gradprobe.tasks:classification",
    "captioning": "gradprobe.vlm.task:captioning",
}
LOSSES = ("ce", "kl")
DTYPES = ("float32", "bfloat16", "float64")
AUTO = "auto"  # generator of noise by the device
RANDOM = "random:"  # in the place of a fingerprint of weights, before their seed


@dataclass(frozen=True)
class Classification:
    """The loss of a frozen classifier that reads what an operator selected.

    ``ce`` is the cross-entropy with the labels; ``kl`` is ``KL(p_unpruned || p_pruned)``, which needs none.

    Attributes:
        backbone: the frozen model, split at the insertion point.
        source: where images come from.
        scorer: patches ``(B, N, D)`` -> scores ``(B, N)``.
        loss: ``ce`` or ``kl``.
        names: how the question names model, data, scorer and precision.
        denoiser: tokens ``(B, M, D)`` -> tokens, trained with the scorer and left out at deployment; None: none.
    """

    backbone: Backbone
    source: ImageSource
    scorer: nn.Module
    loss: str
    names: Mapping[str, Any]
    denoiser: nn.Module | None = None

    @property
    def n_tokens(self) -> int:
        """N, the tokens that can be pruned."""
        return self.backbone.n_tokens

    @property
    def question(self) -> dict[str, Any]:
        """Description of the task in JSON types; the weights of a caller's own model are hashed anew each time."""
        names = dict(self.names)
        if str(names.get("weights")).startswith(STATE):
            names["weights"] = state_fingerprint(self.backbone.model)
        return {**names, "loss": self.loss, "layer": self.backbone.layer}

    @property
    def layers(self) -> int | None:
        """None: no language model reads the tokens."""
        return None

    @property
    def generator(self) -> str:
        """Generator of the noise."""
        return str(self.names.get("generator", HOST))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Image files that could not be read so far and were passed over."""
        return self.source.skipped

    def running(self) -> AbstractContextManager[None]:
        """Put the frozen model in evaluation mode meanwhile."""
        return frozen(self.backbone.model)

    def batches(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """Yield probe batches; too few images are refused at once."""
        self.source.need(count * size)
        return (self._batch(self.source.probe(i * size, size, seed)) for i in range(count))

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield training batches without end."""
        position = start * size
        while True:
            yield self._batch(self.source.train(position, size, seed))
            position += size

    def losses(self, selection: Selection, batch: Batch) -> Tensor:
        """Return the loss of each image, ``(B,)``."""
        return self._losses(self.backbone.encode(batch.tokens.prefix, selection), batch)

    def ranks(self, selection: Selection, batch: Batch) -> Tensor:
        """Return the number of classes above the right one (``kl``: the unpruned model's), ``(B,)``; NaN ranks last."""
        return self._ranks(self.backbone.encode(batch.tokens.prefix, selection), batch)

    def judged(self, selection: Selection, batch: Batch) -> tuple[Tensor, Tensor]:
        """`losses` and `ranks` from one pass of the frozen model."""
        logits = self.backbone.encode(batch.tokens.prefix, selection)
        return self._losses(logits, batch), self._ranks(logits, batch)

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.loss == "ce":
            return F.cross_entropy(logits, batch.target, reduction="none")
        return F.kl_div(logits.log_softmax(-1), batch.target, reduction="none", log_target=True).sum(-1)

    def _ranks(self, logits: Tensor, batch: Batch) -> Tensor:
        right = (batch.target if self.loss == "ce" else batch.target.argmax(-1))[:, None]
        above = (logits > logits.gather(1, right)).sum(-1)
        return above.masked_fill(logits.isnan().any(-1), logits.shape[-1])

    def view(self, batch: Batch, noise: Noise) -> View:
        """Return the images as selectors see them; there is no projector."""
        tower = partial(tower_of, self.backbone, batch.tokens)
        grids = self.backbone.grids
        return View(noise, batch.tokens.patches, make_tower=tower, grids=grids, relevant=batch.relevant)

    def reading(self, drops: Sequence[Drop], positions: Positions, seed: int) -> "Classification":
        """Refuse: no language model reads the tokens.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.backbone.name} has no language model in which tokens could be dropped or renumbered")

    def picture(self, seed: int) -> tuple[tuple[np.ndarray, Grid], ...]:
        """Return a seed's first probe image as people see it, with rows and columns of patches; () without a grid."""
        config = resolve_model_data_config(self.backbone.model)
        image = displayed(self.source.probe(0, 1, seed).images.cpu(), config["mean"], config["std"])[0]
        return tuple((image, grid) for grid in self.backbone.grids)

    def available(self, count: int) -> int:
        """Return ``count``, or the number of probe images if there are fewer."""
        return min(count, self.source.size)

    def with_new_scorer(self, seed: int, scorer: str | None = None, denoiser: str | None = None) -> "Classification":
        """Return the task with a freshly initialised scorer and denoiser; the frozen model is shared.

        Random weights are those of the seed, so where they are of another one the model is made anew.

        Args:
            seed: of both, and of random weights.
            scorer: name and fields; None: those that the task has.
            denoiser: likewise; ``none`` for none.
        """
        names, backbone, source = dict(self.names), self.backbone, self.source
        if str(names.get("weights")).startswith(RANDOM) and names["weights"] != f"{RANDOM}{seed}":
            like = next(backbone.model.parameters())
            backbone = load_backbone(
                names["backbone"],
                "none",
                layer=backbone.layer,
                seed=seed,
                device=str(like.device),
                dtype=names["dtype"],
                image_size=names.get("image_size"),
            )
            names["weights"] = f"{RANDOM}{seed}"
        if isinstance(source, FolderSource):
            source = source.unread()
        names, trained = freshly_trained(names, backbone.dim, seed, next(self.scorer.parameters()), scorer, denoiser)
        return replace(self, backbone=backbone, source=source, names=names, **trained)

    def _batch(self, images: Images) -> Batch:
        device = next(self.backbone.model.parameters()).device
        pixels = onto(images.images, device)
        tokens, target = halving(lambda rows: self._embedded(pixels, rows), len(pixels), device)
        if self.loss == "ce":
            assert images.labels is not None
            target = onto(images.labels, device)
        known = images.relevant
        return Batch(images.ids, tokens, target, None if known is None else onto(known, device))

    def _embedded(self, pixels: Tensor, rows: int) -> tuple[Tokens, Tensor]:
        """Return tokens and, for ``kl``, the unpruned model's log-probabilities, made of ``rows`` images at a time."""
        parts = []
        with torch.no_grad():
            for some in pixels.split(rows):
                tokens, logits = self.backbone.embed(some), some.new_zeros(len(some), 0)
                if self.loss == "kl":
                    everything = Selection(tokens.patches, torch.ones(tokens.patches.shape[:2], device=pixels.device))
                    logits = self.backbone.encode(tokens.prefix, everything)
                parts.append((tokens.prefix, tokens.patches, logits.log_softmax(-1)))
        prefix, patches, target = (each[0] if len(parts) == 1 else torch.cat(each) for each in zip(*parts, strict=True))
        return Tokens(prefix, patches), target


@dataclass(frozen=True)
class Arguments:
    """Keyword arguments of `classification`."""

    backbone: str | nn.Module | Backbone = argument(
        "scenes",
        "``scenes``, a timm model name, or a model of one's own: a timm ``VisionTransformer``, or a "
        "`Backbone`, which needs ``data``, brings its weights, device and dtype, and is left as found.",
        keyword=False,
    )
    weights: str | Path | None = argument(
        None, "A safetensors or .pth file, ``none`` for random ones, None for the hub's (or the embedded ones)."
    )
    data: str | Path | None = argument(None, "A folder of images; None with ``scenes`` means its own scenes.")
    train_data: str | Path | None = argument(None, "Another folder, to train scorers on; None: the same.")
    layer: int = argument(0, "Number of blocks before the insertion point.")
    loss: str = argument("ce", "``ce`` or ``kl``.")
    scorer: str = argument("mlp", "``mlp`` or ``transformer``, with fields: ``mlp:width=512``.")
    seed: int = argument(0, "Seed of the scorer, and of random weights.")
    device: str = argument("cpu", "A torch device.")
    dtype: str = argument("float32", "``float32``, ``float64``, or ``bfloat16`` (autocast around the frozen model).")
    generator: str = argument(
        "auto",
        "Generator of noise: ``host``, ``philox``, made on the device, or ``auto``: philox on a GPU. Part of the "
        "question unless it is ``host``.",
    )
    denoiser: str = argument("none", "``token``, ``global`` or ``none``: trained with a scorer, behind the operator.")
    weights_key: str | None = argument(
        None, "Name of a model in the weights file; None: by timm's order. Part of the question only if given."
    )
    image_size: int | str | tuple[int, int] | None = argument(
        None, "Pixels, or ``HxW``; None: that of the weights. Part of the question only if given."
    )
    class_order: str | None = argument(
        None, "Order of the class folders, ``text`` or ``natural``, where the two differ. Likewise."
    )


@takes(Arguments)
def classification(given: Arguments) -> Classification:
    """Open a task: a timm vision transformer or an embedded model, images, and a fresh scorer.

    Returns:
        The task.

    Raises:
        UsageError: an unknown name, or a combination that means nothing.
        GradprobeError: weights or images that cannot be read.

    Example:
        >>> task = classification("scenes")
        >>> task.n_tokens
        196

        A model of one's own, on photographs without labels: ``classification(model, data="photos/", loss="kl")``.
    """
    _check_words(given)
    built, loss = _opened(given), given.loss
    source = _source(given, built)
    like = next(built.model.parameters())
    names = _names(given, built, source)
    return Classification(built, source, loss=loss, names=names, **both_trained(names, built.dim, given.seed, like))


def _check_words(given: Arguments) -> None:
    """Refuse words that name nothing, or that mean nothing together."""
    for name, value, possible in (("loss", given.loss, LOSSES), ("dtype", given.dtype, DTYPES)):
        if value not in possible:
            raise UsageError(f"--{name} {value} is not possible; {nearest(value, possible)}")
    for name in ("weights", "data", "train_data"):
        path = getattr(given, name)
        if path is not None and not isinstance(path, str | Path):
            raise UsageError(f"{name}={in_words(path)} is not possible; give the path of a file or folder")
    check_number("seed", given.seed)
    if given.class_order is not None and given.data is None:
        raise UsageError(f"--class-order {given.class_order} needs class folders: give --data DIR")


def _opened(given: Arguments) -> Backbone:
    """Open the frozen model, or take the caller's."""
    if not isinstance(given.backbone, str):
        built = own_backbone(given.backbone, layer=given.layer, device=given.device, dtype=given.dtype)
        unused = ("weights", "weights_key", "image_size")
        if given.data is None or any(getattr(given, name) is not None for name in unused):
            raise UsageError(
                f"a model of your own ({built.name}) brings its weights and needs images; give data='photos/' (with "
                f"loss='kl' where there are no labels), and leave {', '.join(unused)} out"
            )
    else:
        built = load_backbone(
            given.backbone,
            given.weights,
            layer=given.layer,
            seed=given.seed,
            device=given.device,
            dtype=given.dtype,
            weights_key=given.weights_key,
            image_size=given.image_size,
        )
    if isinstance(built.model.head, nn.Identity):
        raise UsageError(
            f"{given.weights or built.name} has no classifier (head.weight), so there are no classes to tell apart; "
            "give --weights FILE of a model with one"
        )
    return built


def _source(given: Arguments, built: Backbone) -> ImageSource:
    """Open the folders of images, or the scenes."""
    device = next(built.model.parameters()).device
    if given.train_data is not None and given.data is None:
        raise UsageError("--train-data without --data: name the folder that is tested on with --data DIR")
    if given.data is None:
        if not isinstance(given.backbone, str) or given.backbone not in MODELS:
            raise UsageError(f"--backbone {given.backbone} needs images: give --data DIR (a folder of photographs)")
        return SceneSource(device=device, pictures=given.backbone)
    named = [data for data in (given.data, given.train_data) if data is not None]
    folders = [replace(built.open_images(data, given.class_order), device=device) for data in named]
    if given.loss == "ce":
        for folder in folders:
            folder.need_labels()
        check_same_classes(folders[0].classes, folders[-1].classes)
    return FolderSource(*folders)


def _names(given: Arguments, built: Backbone, source: ImageSource) -> dict[str, Any]:
    """Return the names of model, data, scorer and precision in the question."""
    names: dict[str, Any] = {
        "data": source.fingerprint if isinstance(source, SceneSource) else data_fingerprint(str(given.data)),
        "scorer": label(part("scorer", given.scorer)),
        "backbone": given.backbone,
        "dtype": given.dtype,
    }
    own = {} if isinstance(given.backbone, str) else own_names(built)
    names |= own or {"weights": weights_fingerprint(str(given.backbone), given.weights, given.seed)}
    if given.train_data is not None:
        names["train_data"] = data_fingerprint(given.train_data)
    names |= generator_name(given.generator, next(built.model.parameters()).device)
    if (denoiser := label(part("denoiser", given.denoiser))) != "none":
        names["denoiser"] = denoiser
    if given.image_size is not None:
        height, width = built.model.patch_embed.img_size
        names["image_size"] = height if height == width else f"{height}x{width}"
    said = {"weights_key": given.weights_key, "class_order": given.class_order}
    return names | {name: value for name, value in said.items() if value is not None}


def maker(kind: str) -> Callable[..., Any]:
    """Return the function that opens a kind of task; all take the same arguments, see `classification`.

    Raises:
        UsageError: no kind of task is called so.

    Example:
        >>> maker("classification")("scenes").n_tokens
        196
    """
    if kind not in TASKS:
        raise UsageError(f"no kind of task is called {kind!r}; {nearest(kind, TASKS)}")
    module, _, name = TASKS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def generator_name(generator: str, device: torch.device) -> dict[str, str]:
    """Return what the question says of the generator of noise: nothing of ``host``.

    Args:
        generator: one of `gradprobe.noise.GENERATORS`, or ``auto``: philox on a GPU, host on a CPU.
        device: of the model.

    Raises:
        UsageError: no such generator.

    Example:
        >>> generator_name("auto", torch.device("cpu")), generator_name("philox", torch.device("cpu"))
        ({}, {'generator': 'philox'})
    """
    if generator not in (AUTO, *GENERATORS):
        raise UsageError(f"--generator {generator} is not possible; {nearest(generator, (AUTO, *GENERATORS))}")
    chosen = (HOST if device.type == "cpu" else PHILOX) if generator == AUTO else generator
    return {} if chosen == HOST else {"generator": chosen}

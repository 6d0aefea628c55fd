"""Captioning as a task: a frozen vision-language model, a scorer, and images with captions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.core import Batch, RaggedBatch, Selection, Stream, Tokens
from gradprobe.data.fingerprints import model_fingerprint
from gradprobe.errors import UsageError, in_words
from gradprobe.models.backbones import frozen
from gradprobe.models.fresh import both_trained, freshly_trained
from gradprobe.noise import HOST, Noise
from gradprobe.operators.registry import label, part
from gradprobe.settings import argument, takes
from gradprobe.tasks import generator_name
from gradprobe.view import Drop, Grid, Positions, View
from gradprobe.vlm.captions import CaptionSource, Example
from gradprobe.vlm.inside import pruned_logits
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.picture_source import source_of
from gradprobe.vlm.prompts import Sequence as VisualSequence
from gradprobe.vlm.ranking import views_of
from gradprobe.vlm.sequence import assemble, compact
from gradprobe.vlm.text import IGNORED, Target, Text, target_of
from gradprobe.vlm.views import Projector, tower_of_examples, words_of
from gradprobe.vlm.vision_features import ImageFeatures, cached_features, inputs_of


@dataclass(frozen=True)
class Reader:
    """Handling of visual tokens within the language model.

    Attributes:
        drops: Layers at which tokens are dropped.
        positions: Position ids of those that are left.
        seed: Of the selectors' noise.
    """

    drops: tuple[Drop, ...] = ()
    positions: Positions = "keep"
    seed: int = 0


@dataclass(frozen=True)
class Captioning:
    """Caption loss of a frozen vision-language model on the selected tokens.

    ``L = -mean_t log p(y_t | y_<t, Z)`` over the caption's tokens, Z the kept and projected visual tokens with the
    prompt. Ranks are of the answers to the examples' questions.

    Source: DiffPrune, Eq. 2.

    Attributes:
        vlm: The frozen model.
        source: Images, captions and questions.
        scorer: Tokens before the projector ``(B, N, D)`` -> scores ``(B, N)``.
        names: Names of model, data, scorer, denoiser and precision in the question.
        denoiser: Tokens ``(B, M, D)`` -> tokens, trained with the scorer and left out at deployment; None: none.
        reader: What the language model does with the tokens that it is given.
    """

    vlm: VLM
    source: CaptionSource
    scorer: nn.Module
    names: Mapping[str, Any]
    denoiser: nn.Module | None = None
    reader: Reader = Reader()

    @property
    def n_tokens(self) -> int:
        """N, the visual tokens of an image.

        Raises:
            UsageError: Images differ in it.
        """
        return self._n_tokens

    @cached_property
    def _n_tokens(self) -> int:  # a type checker wants a protocol's property to be a property
        return self._one(self.batch_of(self.source.probe(0, 1, 0))).tokens.patches.shape[1]

    @property
    def question(self) -> dict[str, Any]:
        """Description of the task in JSON types."""
        return {"task": "captioning", **self.names, "loss": "ce", "layer": 0}

    @property
    def generator(self) -> str:
        """Generator of the noise."""
        return str(self.names.get("generator", HOST))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Inputs that could not be used so far and were passed over."""
        return self.source.skipped

    def running(self) -> AbstractContextManager[None]:
        """Hold the frozen model in evaluation mode; mode and flags are restored afterwards."""
        return frozen(self.vlm.model)

    def batches(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """Return the first probe batches, each made on demand; the number of examples is checked at once."""
        self.source.need(count * size)
        return (self._one(self.batch_of(self.source.probe(i * size, size, seed))) for i in range(count))

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch | RaggedBatch]:
        """Yield training batches without end."""
        position = start * size
        while True:
            yield self.batch_of(self.source.train(position, size, seed))
            position += size

    def losses(self, selection: Selection, batch: Batch) -> Tensor:
        """Return the per-image caption loss, ``(B,)``."""
        logits, labels = self._read(selection, batch.target.caption, batch.ids)
        each = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return each.sum(1) / (labels != IGNORED).sum(1)

    def ranks(self, selection: Selection, batch: Batch) -> Tensor:
        """Count the words above the right answer, ``(B,)``: the largest count over its tokens; NaN ranks last.

        Raises:
            UsageError: The data have no questions.
        """
        if batch.target.question is None:
            raise UsageError(
                "this needs questions about the images: give lines with a question and an answer in the captions file"
            )
        logits, labels = self._read(selection, batch.target.question, batch.ids)
        right = logits.gather(2, labels.clamp(min=0)[..., None])
        above = (logits > right).sum(-1).masked_fill(logits.isnan().any(-1), logits.shape[-1])
        return above.masked_fill(labels == IGNORED, 0).amax(1)

    def judged(self, selection: Selection, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return `losses` and `ranks`, which read two sequences, one after the other."""
        return self.losses(selection, batch), self.ranks(selection, batch)

    @property
    def layers(self) -> int:
        """Number of layers of the language model."""
        return int(self.vlm.model.config.get_text_config().num_hidden_layers)

    def view(self, batch: Batch, noise: Noise) -> View:
        """Return the images as selectors see them before the language model; the text is that of the question."""
        target: Target = batch.target
        text = target.caption if target.question is None else target.question
        return View(
            noise,
            batch.tokens.patches,
            projector=Projector(self.vlm),
            make_tower=partial(tower_of_examples, self.vlm, target.examples),
            make_words=partial(words_of, self.vlm, text.prompt, _before(text.labels)),
            grids=grids.pop() if len(grids := set(target.grids)) == 1 else (),
            relevant=batch.relevant,
        )

    def reading(self, drops: Sequence[Drop], positions: Positions, seed: int) -> "Captioning":
        """Return the task whose language model drops visual tokens at some layers, or renumbers those that are left."""
        return replace(self, reader=Reader(tuple(drops), positions, seed))

    def picture(self, seed: int) -> tuple[tuple[np.ndarray, Grid], ...]:
        """Return the pictures that the tokens of a seed's first probe image cover, as people see them."""
        examples = self.source.probe(0, 1, seed)
        n = self._one(self.batch_of(examples)).tokens.patches.shape[1]
        return tuple((view.image, view.grid) for view in views_of(self.vlm, inputs_of(self.vlm, examples), n))

    def available(self, count: int) -> int:
        """Return ``count``, or the number of probe images if there are fewer."""
        return min(count, self.source.size)

    def with_new_scorer(self, seed: int, scorer: str | None = None, denoiser: str | None = None) -> "Captioning":
        """Return the task with a freshly initialised scorer and denoiser; the frozen model is shared.

        Args:
            seed: Of both.
            scorer: Name and fields; None: those of the task.
            denoiser: Likewise; ``none`` for none.
        """
        like = next(self.scorer.parameters())
        names, trained = freshly_trained(self.names, self.vlm.dim, seed, like, scorer, denoiser)
        return replace(self, names=names, **trained)

    def _read(self, selection: Selection, text: Text, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, S'-1, V)`` of the next token at each position that is left, and its label."""
        tokens = selection.tokens.to(next(self.vlm.model.parameters()).dtype)
        index = None if selection.index is None else list(selection.index)
        sequence = assemble(self.vlm, text.prompt, list(tokens), index)
        if self.reader.positions == "compact":
            sequence = compact(sequence)
        origin = sequence.origin
        if self.reader.drops:
            logits, origin = self._dropped(selection, sequence, text, ids)
        else:
            at = origin.clamp(min=0)
            visual = (text.prompt.slot.gather(1, at) >= 0) & (origin >= 0)
            biases = (_spread(bias, visual) for bias in (selection.key_bias, selection.self_bias))
            logits = self.vlm.logits(sequence, *biases)
        labels = text.labels.gather(1, origin.clamp(min=0)).masked_fill(origin < 0, IGNORED)
        return logits[:, :-1].to(selection.tokens.dtype), labels[:, 1:]

    def _dropped(
        self, selection: Selection, sequence: VisualSequence, text: Text, ids: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return logits and the places in the prompt of the positions that are left behind the last layer."""
        if selection.key_bias is not None or selection.self_bias is not None:
            raise UsageError("a bias on single keys is not possible where tokens are dropped within the language model")
        answers = text.labels.gather(1, sequence.origin.clamp(min=0)) != IGNORED
        last = (answers & (sequence.origin >= 0)).long().argmax(1) - 1
        noise = Noise(self.reader.seed, ids, generator=self.generator).stream(Stream.RANKING)
        return pruned_logits(self.vlm, sequence, last, self.reader.drops, noise, self.reader.positions)

    def batch_of(self, examples: Sequence[Example]) -> Batch | RaggedBatch:
        """Make a batch of examples; those with different numbers of tokens become parts of a ragged one."""
        images = cached_features(self.vlm, examples, self.names)
        sizes = sorted({len(image.tokens) for image in images})
        parts = []
        for size in sizes:
            some = [i for i, image in enumerate(images) if len(image.tokens) == size]
            parts.append(self._part([examples[i] for i in some], [images[i] for i in some]))
        return parts[0] if len(parts) == 1 else RaggedBatch(tuple(parts))

    def _part(self, examples: Sequence[Example], images: Sequence[ImageFeatures]) -> Batch:
        patches = torch.stack([image.tokens for image in images]).to(next(self.scorer.parameters()))
        with torch.no_grad():
            target: Target = target_of(self.vlm, examples, images)
        known = [e.relevant() if callable(e.relevant) else e.relevant for e in examples]
        relevant = None if any(k is None for k in known) else torch.from_numpy(np.stack(known)).to(patches.device)
        kinds = tuple(e.kind for e in examples if e.kind is not None)
        return Batch(
            tuple(e.id for e in examples),
            Tokens(patches[:, :0], patches),
            target,
            relevant,
            kinds if len(kinds) == len(examples) else (),
        )

    def _one(self, batch: Batch | RaggedBatch) -> Batch:
        if isinstance(batch, RaggedBatch):
            sizes = ", ".join(str(part.tokens.patches.shape[1]) for part in batch.parts)
            raise UsageError(
                f"the images have {sizes} visual tokens; a probe needs the same number for all: give images of one size"
            )
        return batch


@dataclass(frozen=True)
class Arguments:
    """Keyword arguments of `captioning`: the names of those of `gradprobe.classification`."""

    backbone: str = argument(
        "scenes-vlm",
        "``photos-vlm``, ``scenes-vlm``, a hub id, or a folder with a model of a known family.",
        keyword=False,
    )
    weights: str | None = argument(None, "Not possible: a model's folder holds them.")
    data: str | None = argument(
        None, "A ``captions.jsonl`` or a folder of captioned images; None with an embedded model: its own pictures."
    )
    train_data: str | None = argument(None, "Not possible: a fixed part of ``data`` is held out for probes.")
    layer: int = argument(0, "0, before the projector.")
    loss: str = argument("ce", "``ce``, of the caption.")
    scorer: str = argument("mlp", "``mlp`` or ``transformer``, with fields: ``transformer:depth=2,heads=16``.")
    seed: int = argument(0, "Seed of the scorer.")
    device: str = argument("cpu", "A torch device.")
    dtype: str = argument(
        "float32", "``float32``, ``bfloat16`` or ``float16``, of the frozen model's weights; the scorer keeps float32."
    )
    generator: str = argument("auto", "Generator of noise: ``host``, ``philox``, or ``auto``: philox on a GPU.")
    denoiser: str = argument("none", "``token``, ``global`` or ``none``: trained with the scorer, behind the operator.")
    weights_key: str | None = argument(None, "Not possible, like ``weights``.")
    image_size: int | str | tuple[int, int] | None = argument(None, "Not possible: the processor decides it.")
    class_order: str | None = argument(None, "Not possible: there are no classes.")


@takes(Arguments)
def captioning(given: Arguments) -> Captioning:
    """Make a task from names: a vision-language model, captioned images, and a fresh scorer.

    Returns:
        The task.

    Raises:
        UsageError: An unknown name, or a combination that means nothing.
        GradprobeError: A model or data that cannot be read.

    Example:
        >>> task = captioning("scenes-vlm")
        >>> task.n_tokens, task.vlm.dim
        (100, 128)
    """
    name = given.backbone
    if not isinstance(name, str):
        raise UsageError(f"{in_words(name)} is no name of a model; an open one makes a task by gp.vlm.task_of")
    for value, option, remedy in (
        (given.weights, "--weights", f"name a folder with the model's weights instead of {name}"),
        (given.train_data, "--train-data", "a fixed part of --data is held out for probes"),
        (given.weights_key, "--weights-key", "a model's folder holds one model"),
        (given.image_size, "--image-size", "its processor decides the size of the images"),
        (given.class_order, "--class-order", "captioned images have no classes"),
    ):
        if value is not None:
            raise UsageError(f"{option} {value} is not possible with a vision-language model: {remedy}")
    if given.layer or given.loss != "ce":
        raise UsageError(
            f"--layer {given.layer} --loss {given.loss} is not possible with a vision-language model: tokens are "
            "selected before its projector, and the loss is that of the caption (--layer 0 --loss ce)"
        )
    vlm = open_vlm(name, device=given.device, dtype=given.dtype)
    source = source_of(name, given.data, vlm)
    names = {"backbone": name, "weights": model_fingerprint(name), "data": source.fingerprint, "dtype": given.dtype}
    names |= generator_name(given.generator, vlm.device)
    return task_of(vlm, source, names, scorer=given.scorer, denoiser=given.denoiser, seed=given.seed)


def task_of(
    vlm: VLM, source: CaptionSource, names: Mapping[str, Any], *, scorer: str, denoiser: str, seed: int
) -> Captioning:
    """Make a task of a model and data of one's own, with a fresh scorer and denoiser.

    Args:
        vlm: The model.
        source: Images with captions.
        names: Their names in the question: ``backbone``, ``weights``, ``data``, ``dtype``, and the ``generator`` of
            noise unless it is host.
        scorer: ``mlp`` or ``transformer``, with fields.
        denoiser: ``token``, ``global`` or ``none``, with fields.
        seed: Of both.

    Raises:
        UsageError: An unknown name or field.
    """
    spec, behind = label(part("scorer", scorer)), label(part("denoiser", denoiser))
    weight = next(vlm.model.parameters())
    like = torch.empty(0, device=weight.device, dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)
    own = {**names, "scorer": spec} | ({} if behind == "none" else {"denoiser": behind})
    return Captioning(vlm, source, names=own, **both_trained(own, vlm.dim, seed, like))


def _before(labels: Tensor) -> Tensor:
    """Return a mask of the positions before the answer, ``(B, S)``."""
    return (labels != IGNORED).long().cumsum(1) == 0


def _spread(bias: Tensor | None, visual: Tensor) -> Tensor | None:
    """Spread the biases of the visual tokens ``(B, M)`` over their places in the sequences ``(B, S')``; 0 elsewhere."""
    if bias is None:
        return None
    nth = (visual.cumsum(1) - 1).clamp(min=0)
    return torch.where(visual, bias.gather(1, nth), bias.new_zeros(()))

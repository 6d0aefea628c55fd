"""Captioned images of a vision-language task: by position in a seeded order, each with a stable id."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from gradprobe.data.reader import PictureError
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.caption_files import Listing, first_faults, hash_of
from gradprobe.vlm.caption_tables import list_any
from gradprobe.vlm.placeholders import Placeholders

PROMPT = "Describe the image briefly."  # the paper does not say what it asks
HELD_OUT = 256  # images held out for validation, where a tenth of all is not less
_THREADS = min(8, os.cpu_count() or 1)  # PIL lets go of the interpreter while it decodes


@dataclass(frozen=True)
class Example:
    """Image with its prompt and its caption.

    Attributes:
        id: Non-negative integer, unique and the same on any machine: the key of its noise.
        image: PIL image, array that the task takes, or function that makes one when it is needed.
        prompt: Text before the caption, with the image's placeholder in it.
        caption: Text of the loss.
        question: Prompt that asks something, placeholder included; None: there is none.
        answer: Answer to the question.
        kind: Kind of the question.
        relevant: Tokens that are known to matter, ``(N,)`` bool, or a function; None where that is unknown.
    """

    id: int
    image: Any
    prompt: str
    caption: str
    question: str | None = None
    answer: str | None = None
    kind: int | None = None
    relevant: Any = None


class CaptionSource(Protocol):
    """Captioned images by position in a seeded order; probes and validation read others than training."""

    @property
    def size(self) -> int:
        """Number of examples for probes."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Inputs that could not be used so far and were passed over."""
        ...

    def need(self, count: int) -> None:
        """Refuse a question that needs more examples than there are."""
        ...

    def probe(self, start: int, size: int, seed: int) -> list[Example]:
        """Return examples ``start .. start + size`` of the order for probes."""
        ...

    def train(self, start: int, size: int, seed: int) -> list[Example]:
        """Return examples of the order for training, which never ends."""
        ...


@dataclass(frozen=True)
class Captions:
    """Captioned images on disk; some images are held out, for validation and probes.

    A training image that cannot be used is passed over when its turn comes, and the next one of the order replaces it;
    so the example at a position does not depend on earlier reads. An image that was decoded once is decoded again only
    when it is needed: its features may be cached.

    Attributes:
        listing: Entries and the place of their images.
        held: Positions of the entries for probes.
        rest: Positions of those for training.
        template: Text of a prompt -> the prompt with the image's placeholder.
        check: Raises `PictureError` for an image that the model does not take.
    """

    listing: Listing
    held: tuple[int, ...]
    rest: tuple[int, ...]
    template: Callable[[str], str]
    check: Callable[[Image.Image], None] | None = None
    # Fault of each image that was read, "" for none. It saves work and changes no answer.
    _faults: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of examples that are held out."""
        return len(self.held)

    @property
    def epoch(self) -> int:
        """Number of examples that training sees once each before it begins again."""
        return len(self.rest)

    @property
    def fingerprint(self) -> str:
        """Hash of captions, paths, images and the number held out; the place of the data plays no part."""
        return f"{self.listing.fingerprint}:{len(self.held)}"

    @property
    def skipped(self) -> tuple[str, ...]:
        """The first few lines and images that could not be used so far, and the number of the others."""
        faults = [(image, fault) for image, fault in dict(self._faults).items() if fault]
        faults.sort(key=lambda each: self.listing.rank_of(each[0]))
        unreadable = tuple(f"{self.listing.place_of(image)} {fault}" for image, fault in faults)
        return first_faults(self.listing.faults + unreadable)

    @property
    def n_skipped(self) -> int:
        """Number of lines and images that could not be used so far."""
        return len(self.listing.faults) + sum(bool(fault) for fault in dict(self._faults).values())

    def need(self, count: int) -> None:
        """Refuse before any work a question that needs more examples than are held out.

        Raises:
            UsageError: There are fewer than ``count``.
        """
        if count > len(self.held):
            raise UsageError(
                f"{len(self.held)} captions are held out and {count} are needed; lower --images, --batches or "
                "--batch-size, hold out more, or give more captions"
            )

    def probe(self, start: int, size: int, seed: int) -> list[Example]:
        """Return examples ``start .. start + size`` of the seed's permutation of those held out.

        Raises:
            UsageError: There are fewer.
            GradprobeError: An image can no longer be read.
        """
        self.need(start + size)
        order = _order(seed, len(self.held))[start : start + size]
        with ThreadPoolExecutor(_THREADS) as pool:
            examples = [e for e in pool.map(self.read, [self.held[i] for i in order]) if e is not None]
        if len(examples) < size:
            raise GradprobeError(f"{size - len(examples)} held-out images can no longer be read{self._because()}")
        return examples

    def train(self, start: int, size: int, seed: int) -> list[Example]:
        """Return examples of an endless order, a new permutation in each epoch.

        Raises:
            GradprobeError: None can be read.
        """
        count = len(self.rest)
        epochs = range(start // count, (start + size - 1) // count + 1)
        orders = {epoch: _order(seed + 1_000 + epoch, count) for epoch in epochs}
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda at: self._first(orders[at // count], at % count), range(start, start + size)))

    def _first(self, order: np.ndarray, place: int) -> Example:
        """Return the first readable example of an order from a place on."""
        for i in range(len(order)):
            example = self.read(self.rest[order[(place + i) % len(order)]])
            if example is not None:
                return example
        raise GradprobeError(f"none of the {len(order)} training images can be read{self._because()}; give others")

    def read(self, index: int) -> Example | None:
        """Return the example of an entry; None if its image cannot be used, which `skipped` lists."""
        entry = self.listing.entries[index]
        fault = self._faults.get(entry.image)
        if fault:
            return None
        image: Any = partial(self._again, entry.image)
        if fault is None:
            try:
                image = self.listing.read(entry.image)
                if self.check is not None:
                    self.check(image)
            except PictureError as error:
                self._faults[entry.image] = str(error)
                return None
            self._faults[entry.image] = ""
        question = None if entry.question is None else self.template(entry.question)
        prompt = self.template(entry.prompt or PROMPT)
        return Example(entry.id, image, prompt, entry.caption, question, entry.answer)

    def _again(self, image: str) -> Image.Image:
        try:
            return self.listing.read(image)
        except PictureError as error:
            place = self.listing.root / self.listing.place_of(image)
            raise GradprobeError(f"{place} can no longer be read: it {error}") from None

    def _because(self) -> str:
        return f" ({'; '.join(self.skipped)})" if self.skipped else ""


def open_captions(
    path: str | Path,
    image_root: str | Path | None = None,
    *,
    held_out: int | None = None,
    template: Callable[[str], str] | None = None,
    processor: Any = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Captions:
    r"""Open the captions of a file or folder, and hold out a fixed part of the images.

    A hash of the paths decides which images are held out, so another machine, another order of lines or a few more
    captions hold out the same ones; all captions of an image are on one side. Those held out are decoded at once.

    Args:
        path: A ``captions.jsonl`` (lines ``{"image": ..., "caption": ...}``, with ``"prompt"``, ``"question"`` and
            ``"answer"`` if need be), a folder that holds one (or a ``metadata.jsonl``), or a folder of images with a
            ``.txt`` of the same name beside each; or a data set of ``datasets``: a folder that ``save_to_disk`` wrote
            (``FOLDER:SPLIT`` of several), or a hub id (``user/name``, ``user/name:split``).
        image_root: Folder that the paths in a file are relative to; None: the file's own.
        held_out: Images to hold out; None: a tenth, at least 1 and at most 256.
        template: Text of a prompt -> the prompt with the image's placeholder; None: `template_of` the processor.
        processor: Of the model that will read them: images that it refuses, and texts that hold its placeholders, are
            passed over and listed; None: LLaVA's placeholder ``<image>``, and any image.
        image_column: Column of a data set that holds the images; None: it is found by type and name.
        caption_column: Column that holds the captions; None: likewise.

    Raises:
        UsageError: No such file, folder or data set, no usable caption in it, or nothing would be left to train on.
        GradprobeError: The file cannot be read, or ``datasets`` is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in "ab":
        ...     Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        ...     _ = (folder / f"{name}.txt").write_text(f"the letter {name}")
        >>> captions = open_captions(folder, held_out=1)
        >>> captions.size, captions.epoch, captions.train(0, 1, seed=0)[0].prompt
        (1, 1, '<image>\nDescribe the image briefly.')
    """
    listing = list_any(path, image_root, Placeholders.of(processor), image_column, caption_column)
    images = sorted({entry.image for entry in listing.entries}, key=hash_of)
    count = max(1, min(HELD_OUT, len(images) // 10)) if held_out is None else held_out
    if not 0 <= count < len(images):
        raise UsageError(
            f"--data {path} has captions of {len(images)} image{'s' * (len(images) > 1)} and {count} would be held out "
            "for validation; give more images, or lower --validation (0: none)"
        )
    chosen = set(images[:count])
    sides: Sequence[list[int]] = [], []
    for i, entry in enumerate(listing.entries):
        sides[entry.image in chosen].append(i)
    check = None if processor is None else check_of(processor)
    captions = Captions(listing, (), tuple(sides[0]), template or template_of(processor), check)
    with ThreadPoolExecutor(_THREADS) as pool:
        examples = list(pool.map(captions.read, sides[1]))
    held = tuple(i for i, example in zip(sides[1], examples, strict=True) if example is not None)
    complete = replace(captions, held=held)
    complete._faults.update(captions._faults)
    return complete


def placeholder_first(placeholder: str) -> Callable[[str], str]:
    r"""Return a template that puts the image's placeholder on a line before a text that has none.

    Example:
        >>> template = placeholder_first("<image>")
        >>> template("What is it?"), template("<image> caption :")
        ('<image>\nWhat is it?', '<image> caption :')
    """
    return lambda text: text if placeholder in text else f"{placeholder}\n{text}"


def template_of(processor: Any) -> Callable[[str], str]:
    """Return the template of a model's prompts: its chat template or, without one, `placeholder_first`.

    Args:
        processor: As ``AutoProcessor`` gives it; None: the placeholder is ``<image>``.
    """
    placeholder = getattr(processor, "image_token", None) or "<image>"
    if getattr(processor, "chat_template", None) is None:
        return placeholder_first(placeholder)

    def chat(text: str) -> str:
        if placeholder in text:
            return text
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    return chat


def check_of(processor: Any) -> Callable[[Image.Image], None]:
    """Return a check that a model's processor takes an image; its verdict holds for all images of the same size.

    Args:
        processor: As ``AutoProcessor`` gives it.
    """
    refused: dict[tuple[int, int], str] = {}

    def check(image: Image.Image) -> None:
        if image.size not in refused:
            try:
                processor.image_processor(images=[image], return_tensors="pt")
                refused[image.size] = ""
            except MemoryError:
                raise
            except Exception as error:  # each family refuses in its own way
                refused[image.size] = " ".join(str(error).split()) or type(error).__name__
        if refused[image.size]:
            width, height = image.size
            raise PictureError(f"is {width} x {height}, which the model's processor refuses ({refused[image.size]})")

    return check


def _order(seed: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.SFC64([seed])).permutation(count)

"""Images with captions as a vision-language task reads them: by position in a seeded order, each with a stable id."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from gradprobe.data.reader import PictureError, read_picture
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.caption_files import Listing, hash_of, list_captions, told
from gradprobe.vlm.placeholders import Placeholders

PROMPT = "Describe the image briefly."  # the paper does not say what it asks
HELD_OUT = 256  # images kept for validation, where a tenth of all is not less
_THREADS = min(8, os.cpu_count() or 1)  # PIL lets go of the interpreter while it decodes


@dataclass(frozen=True)
class Example:
    """An image, what the model is told, and what it should say.

    Attributes:
        id: a non-negative integer, unique and the same on any machine: the key of its noise.
        image: a PIL image, an array that the task takes, or a function that makes one when it is looked at.
        prompt: what stands before the caption, with the image's placeholder in it.
        caption: the text that the loss is of.
        question: a prompt that asks something, placeholder included; None: there is none.
        answer: to the question.
        kind: which kind of question it is.
        relevant: the tokens that are known to matter, ``(N,)`` bool, or a function; None where nobody knows.
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
        """How many examples probes can read."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Inputs that could not be used so far and were passed over."""
        ...

    def need(self, count: int) -> None:
        """Refuse a question that needs more examples than there are."""
        ...

    def probe(self, start: int, size: int, seed: int) -> list[Example]:
        """Examples ``start .. start + size`` of the order that probes read."""
        ...

    def train(self, start: int, size: int, seed: int) -> list[Example]:
        """The same for training; the order never ends."""
        ...


@dataclass(frozen=True)
class Captions:
    """Captioned images on disk; some images are held out, for validation and probes.

    A training image that cannot be used is found out when its turn comes; the next one of the order stands in for
    it. So what is at a position does not depend on what was read before. An image that was decoded once is decoded
    again only when somebody looks at it: what a vision tower made of it may be known.

    Attributes:
        listing: entries and where their images are.
        held: positions of the entries that probes read.
        rest: positions of those that training reads.
        template: a prompt's text -> the prompt with the image's placeholder.
        check: raises `PictureError` for an image that the model does not take.
    """

    listing: Listing
    held: tuple[int, ...]
    rest: tuple[int, ...]
    template: Callable[[str], str]
    check: Callable[[Image.Image], None] | None = None
    # What is known of images so far: why one cannot be read, "" if it can. It saves work and changes no answer.
    _known: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Examples that are held out."""
        return len(self.held)

    @property
    def epoch(self) -> int:
        """Examples that training sees once each before it begins again."""
        return len(self.rest)

    @property
    def fingerprint(self) -> str:
        """A hash of captions, paths, images and how many are held out: the same wherever the data lie."""
        return f"{self.listing.fingerprint}:{len(self.held)}"

    @property
    def skipped(self) -> tuple[str, ...]:
        """The first few lines and images that could not be used so far, and how many others there are."""
        unreadable = tuple(f"{image} {why}" for image, why in sorted(dict(self._known).items()) if why)
        return told(self.listing.faults + unreadable)

    @property
    def n_skipped(self) -> int:
        """How many could not be used so far."""
        return len(self.listing.faults) + sum(bool(why) for why in dict(self._known).values())

    def need(self, count: int) -> None:
        """Refuse before any work a question that needs more examples than are held out.

        Raises:
            UsageError: there are fewer than ``count``.
        """
        if count > len(self.held):
            raise UsageError(
                f"{len(self.held)} captions are held out and {count} are needed; lower --images, --batches or "
                "--batch-size, hold out more, or give more captions"
            )

    def probe(self, start: int, size: int, seed: int) -> list[Example]:
        """Examples ``start .. start + size`` of the seed's permutation of those held out.

        Raises:
            UsageError: there are fewer.
            GradprobeError: an image can no longer be read.
        """
        self.need(start + size)
        order = _order(seed, len(self.held))[start : start + size]
        with ThreadPoolExecutor(_THREADS) as pool:
            read = list(pool.map(self.read, [self.held[i] for i in order]))
        found = [example for example in read if example is not None]
        if len(found) < size:
            raise GradprobeError(f"{size - len(found)} held-out images can no longer be read{self._because()}")
        return found

    def train(self, start: int, size: int, seed: int) -> list[Example]:
        """Examples of an order that goes round and round, a new permutation each time.

        Raises:
            GradprobeError: none can be read.
        """
        count = len(self.rest)
        epochs = range(start // count, (start + size - 1) // count + 1)
        orders = {epoch: _order(seed + 1_000 + epoch, count) for epoch in epochs}
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda at: self._first(orders[at // count], at % count), range(start, start + size)))

    def _first(self, order: np.ndarray, place: int) -> Example:
        """The first readable example of an order from a place on."""
        for i in range(len(order)):
            example = self.read(self.rest[order[(place + i) % len(order)]])
            if example is not None:
                return example
        raise GradprobeError(f"none of the {len(order)} training images can be read{self._because()}; give others")

    def read(self, index: int) -> Example | None:
        """The example of an entry; None if its image cannot be used, which is told in `skipped`."""
        entry = self.listing.entries[index]
        known = self._known.get(entry.image)
        if known:
            return None
        image: Any = partial(self._again, entry.image)
        if known is None:
            try:
                image = read_picture(self.listing.root / entry.image)
                if self.check is not None:
                    self.check(image)
            except PictureError as error:
                self._known[entry.image] = str(error)
                return None
            self._known[entry.image] = ""
        question = None if entry.question is None else self.template(entry.question)
        prompt = self.template(entry.prompt or PROMPT)
        return Example(entry.id, image, prompt, entry.caption, question, entry.answer)

    def _again(self, image: str) -> Image.Image:
        try:
            return read_picture(self.listing.root / image)
        except PictureError as error:
            raise GradprobeError(f"{self.listing.root / image} can no longer be read: it {error}") from None

    def _because(self) -> str:
        return f" ({'; '.join(self.skipped)})" if self.skipped else ""


def open_captions(
    path: str | Path,
    image_root: str | Path | None = None,
    *,
    held_out: int | None = None,
    template: Callable[[str], str] | None = None,
    processor: Any = None,
) -> Captions:
    r"""Captions from a file or folder, a fixed part of the images held out.

    Which images are held out follows from a hash of their paths, so another machine, another order of lines or a few
    captions more hold out the same ones; all captions of an image are on one side. Those held out are decoded at once.

    Args:
        path: a ``captions.jsonl`` (lines ``{"image": ..., "caption": ...}``, with ``"prompt"``, ``"question"`` and
            ``"answer"`` if need be), a folder that holds one (or a ``metadata.jsonl``), or a folder of images with a
            ``.txt`` of the same name beside each.
        image_root: what the paths in a file are relative to; None: the file's own folder.
        held_out: images to hold out; None: a tenth, at least 1 and at most 256.
        template: a prompt's text -> the prompt with the image's placeholder; None: as `template_of` the processor.
        processor: of the model that will read them: images that it refuses, and texts that hold its placeholders, are
            passed over and told; None: LLaVA's placeholder ``<image>``, and any image.

    Raises:
        UsageError: no such file or folder, no usable caption in it, or nothing would be left to train on.
        GradprobeError: the file cannot be read.

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
    listing = list_captions(path, image_root, Placeholders.of(processor))
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
    check = None if processor is None else taken_by(processor)
    found = Captions(listing, (), tuple(sides[0]), template or template_of(processor), check)
    with ThreadPoolExecutor(_THREADS) as pool:
        readable = [i for i, read in zip(sides[1], pool.map(found.read, sides[1]), strict=True) if read is not None]
    held = replace(found, held=tuple(readable))
    held._known.update(found._known)
    return held


def placed(placeholder: str) -> Callable[[str], str]:
    r"""A template that puts the image's placeholder on a line before a text that has none.

    Example:
        >>> placed("<image>")("What is it?"), placed("<image>")("<image> caption :")
        ('<image>\nWhat is it?', '<image> caption :')
    """
    return lambda text: text if placeholder in text else f"{placeholder}\n{text}"


def template_of(processor: Any) -> Callable[[str], str]:
    """How a model's own chat template puts an image and a text; without one, the placeholder on a line before it.

    Args:
        processor: as ``AutoProcessor`` gives it; None: ``<image>``.
    """
    placeholder = getattr(processor, "image_token", None) or "<image>"
    if getattr(processor, "chat_template", None) is None:
        return placed(placeholder)

    def chat(text: str) -> str:
        if placeholder in text:
            return text
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    return chat


def taken_by(processor: Any) -> Callable[[Image.Image], None]:
    """Return a check that a model's processor takes an image; what it says of one goes for all of the same size.

    Args:
        processor: as ``AutoProcessor`` gives it.
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

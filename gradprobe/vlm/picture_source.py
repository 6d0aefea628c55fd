"""Pictures of the embedded models as captioned examples: no files, a caption and one question each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gradprobe.data.photos import fingerprint, photos
from gradprobe.data.pictures import GRID, SIDE, Object, Pictures, objects_of, pictures
from gradprobe.data.pictures_text import captions, prompt_of_caption, prompt_of_question, questions
from gradprobe.embedded.vlms import PHOTOS_SIZES, VLMS
from gradprobe.errors import UsageError, nearest
from gradprobe.vlm.captions import Captions, Example, open_captions
from gradprobe.vlm.model import VLM

Draw = Callable[[str, Sequence[int]], Pictures]


@dataclass(frozen=True)
class PictureSource:
    """Pictures without end: probes read pictures of held-out digits, training reads pictures of the others.

    A picture comes with one question, of the kind ``id % 4``.

    Attributes:
        on_photos: Pictures on photographs, of held-out regions for probes; else on a plain background.
        skipped: None are passed over.
        size: Pictures of a seed.

    Example:
        >>> one, two = PictureSource().probe(0, 2, seed=0)
        >>> one.question, one.answer, two.kind
        ('<image> is the blue eight above the yellow six ? answer :', 'yes', 1)
    """

    on_photos: bool = False
    skipped: tuple[str, ...] = ()
    size: int = 1_000_000

    @property
    def fingerprint(self) -> str:
        """Name of the data in a question."""
        return fingerprint() if self.on_photos else "pictures"

    def need(self, count: int) -> None:
        """Accept any count: there are always enough pictures."""

    def probe(self, start: int, size: int, seed: int) -> list[Example]:
        """Return pictures ``start .. start + size`` of the seed's own million."""
        return _examples(self._draw, "heldout", range(seed * 1_000_000 + start, seed * 1_000_000 + start + size))

    def train(self, start: int, size: int, seed: int) -> list[Example]:
        """Return pictures of the digits that the model was trained on; the pictures themselves are new to it."""
        first = (seed + 1_000) * 1_000_000 + start
        return _examples(self._draw, "train", range(first, first + size))

    @property
    def _draw(self) -> Draw:
        return photos if self.on_photos else pictures


def _examples(draw: Draw, split: str, ids: Sequence[int]) -> list[Example]:
    return [
        Example(
            i,
            partial(_image, draw, split, i),
            prompt_of_caption(),
            caption,
            prompt_of_question(question.text),
            question.answer,
            question.kind,
            _relevant(objects),
        )
        for i, objects, caption, question in zip(
            ids, objects_of(split, ids), captions(split, ids), questions(split, ids), strict=True
        )
    ]


def _image(draw: Draw, split: str, i: int) -> np.ndarray:
    """Draw a picture ``(3, 80, 80)``, normalised; late, since its features may be cached."""
    return draw(split, [i]).images[0]


def _relevant(objects: Sequence[Object]) -> np.ndarray:
    """Mark the patches of objects, ``(100,)``."""
    there = np.zeros((GRID, GRID), bool)
    for o in objects:
        there[o.row : o.row + SIDE, o.column : o.column + SIDE] = True
    return there.ravel()


def source_of(name: str, data: str | None, vlm: VLM) -> PictureSource | Captions:
    """Open a captions file or folder, or the pictures of an embedded model.

    Raises:
        UsageError: Another model without data, or data that cannot be used.
    """
    if data is not None:
        return open_captions(data, processor=vlm.processor)
    check_captions(name, "--task")
    return PictureSource(name in PHOTOS_SIZES.values())


def check_captions(name: str, option: str) -> None:
    """Refuse a model that has no pictures of its own.

    Args:
        name: The model.
        option: Option that named it.

    Raises:
        UsageError: It is not embedded.
    """
    if name not in VLMS:
        raise UsageError(
            f"{option} {name} needs captioned images: give --data captions.jsonl or a folder of them; the embedded "
            f"models have their own ({nearest(name, VLMS)})"
        )

"""Scenes as in `scenes`, on crops of photographs and among red pieces of digits: what is red need not be relevant.

A scene has the digits, places, clutter and labels of the plain scene of its split and id. In that one 15 patches are as
red as a typical one of the red digit's 9 without being part of it: the 20 reddest hold half of the digit, and what is
around a patch tells the rest. Here 30 patches are. Half of them are of pieces of digits that are longer than those of
the clutter and have the halo that a digit has, so that neither hue nor darkness beside a stroke tells them apart, but
more of the shape. That is left readable: a halo takes most of the photograph and of the pieces away next to a digit's
strokes. Photographs alone were no harder than black for a small scorer of pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from gradprobe.data.photos import background, fingerprint, regions
from gradprobe.data.scenes import BOX, SIZE, Bank, Scenes, bank_of, clutter, composed, scenes, shaded
from gradprobe.embedded.scenes_model import PHOTOS, SCENES

HALO = 0.8  # share of what is behind a digit that is taken away next to its strokes
PIECES, PIECE = 12, 16  # red pieces of a scene, and their edge in pixels: digits have 30 with their margin
MARGIN = 3  # of a digit without ink: pieces are not cut from it
RED = 0
DATA = "photo-scenes"  # name in a question; `photos` are the pictures of the vision-language models
_SEED = {"train": 10, "heldout": 11}  # first word of a background's seed; scenes and pictures have less


def photo_scenes(split: str, ids: Sequence[int]) -> Scenes:
    """Draw scenes on photographs; each is a pure function of its split and id, independent of the batch.

    Labels, and the digits with their places and colours, are those of `gradprobe.data.scenes.scenes`.

    Args:
        split: Split, "train" or "heldout", of the digits' samples and of the photographs' regions.
        ids: Non-negative integers, one per scene.

    Raises:
        UsageError: The split is unknown, or an id is negative.
        GradprobeError: The photographs are not installed.

    Example:
        >>> one, plain = photo_scenes("heldout", [4]), scenes("heldout", [4])
        >>> bool((one.red == plain.red).all()), bool((one.images == plain.images).all())
        (True, False)
    """
    return composed(split, ids, _dimmed(split), partial(_paint, split))


def drawing(pictures: str) -> Callable[[str, Sequence[int]], Scenes]:
    """Return the function (split, ids) that draws the scenes of an embedded model."""
    return photo_scenes if pictures == PHOTOS else scenes


def data_name(pictures: str) -> str:
    """Return the name of an embedded model's scenes in a question.

    That of scenes on photographs has a hash where a library decodes the photographs otherwise.

    Example:
        >>> data_name("scenes")
        'scenes'
    """
    return DATA + fingerprint().removeprefix("photos") if pictures == PHOTOS else SCENES


@cache
def _dimmed(split: str) -> Bank:
    """Return the digits of a split with a halo through which a little is seen."""
    bank = bank_of(split)
    return replace(bank, room=1 - np.float32(HALO) * (1 - bank.room))


def _paint(split: str, rng: np.random.Generator, bank: Bank, i: int, canvas: np.ndarray) -> None:
    own = np.random.Generator(np.random.SFC64([_SEED[split], i]))
    background(own, regions(split, SIZE), canvas)
    canvas *= np.float32(1 / 255)
    for _ in range(2):
        clutter(rng, bank, canvas)
    _red_pieces(own, bank, canvas)


def _red_pieces(rng: np.random.Generator, bank: Bank, canvas: np.ndarray) -> None:
    """Paint red pieces of digits, each in the piece of the digit's halo."""
    sample = rng.integers(0, len(bank.digits), PIECES)
    cuts = rng.integers(MARGIN, BOX - PIECE - MARGIN + 1, (PIECES, 2))
    places = rng.integers(0, SIZE - PIECE + 1, (PIECES, 2))
    colours = shaded(rng, np.full(PIECES, RED))
    for digit, (y, x), (top, left), colour in zip(sample, cuts, places, colours, strict=True):
        cut = (digit, slice(y, y + PIECE), slice(x, x + PIECE))
        where = (slice(None), slice(top, top + PIECE), slice(left, left + PIECE))
        canvas[where] *= bank.room[cut]
        canvas[where] += bank.ink[cut] * colour[:, None, None]

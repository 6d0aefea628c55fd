"""Pictures for the embedded vision-language model: three to five whole handwritten digits among pieces of others.

A digit covers 2 x 2 patches in one of four colours; pieces on other patches have one of four further colours. Captions
and questions follow from the list of a picture's objects alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradprobe.data.samples import handwritten_digits
from gradprobe.data.scenes import split_samples
from gradprobe.errors import UsageError

SIZE, PATCH, GRID = 80, 8, 10  # pixels, pixels, patches: N = 100
SIDE = 2  # patches along a digit's edge: 8 x 8 samples enlarged twice
PLACES = GRID - SIDE + 1  # possible rows, and columns, of a digit's first patch
LEAST, MOST = 3, 5  # digits in a picture
NO_DIGIT, NO_COLOUR = 10, 4
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow")
MEAN, STD = 0.14, 0.22  # of all pixels; the same for the three channels, so that colours are preserved
CLUTTER = 0.4  # share of the patches without a digit that have a piece of one
NOISE = 26  # largest value (of 255) of the noise added to every pixel

_HUES = np.array(
    # the digits' colours, then magenta, cyan, orange, grey: colours of clutter alone
    [[1, 0.1, 0.1], [0.1, 1, 0.1], [0.15, 0.3, 1], [1, 0.95, 0.1], [1, 0.1, 1], [0.1, 1, 1], [1, 0.5, 0.05], [1, 1, 1]],
    dtype=np.float32,
)
_RGB = 225 * _HUES / np.linalg.norm(_HUES, axis=1, keepdims=True)  # equal length: no colour is brighter than another
_SPLIT = {"train": 3, "heldout": 4}  # first word of a picture's seed; scenes have 0 and 1


@dataclass(frozen=True, order=True)
class Object:
    """Digit in a picture; objects sort in raster order.

    Attributes:
        row: Row of its first patch, 0..8.
        column: Column of its first patch, 0..8.
        digit: Digit, 0..9, different for all objects of a picture.
        colour: Index into ``COLOURS``.
    """

    row: int
    column: int
    digit: int
    colour: int


@dataclass(frozen=True)
class Pictures:
    """Batch of pictures with the ground truth of each patch.

    Attributes:
        images: Normalised images, ``(B, 3, 80, 80)`` float32.
        relevant: Mask of the patches of objects, ``(B, 100)`` bool.
        digit_of: Digit that a patch belongs to, 10 for none, ``(B, 100)`` int8.
        colour_of: Index of its colour in ``COLOURS``, 4 for none, ``(B, 100)`` int8.
        objects: Objects of each picture, in raster order.
    """

    images: np.ndarray
    relevant: np.ndarray
    digit_of: np.ndarray
    colour_of: np.ndarray
    objects: tuple[tuple[Object, ...], ...]


@dataclass(frozen=True)
class Samples:
    """Handwritten digits of a split.

    Attributes:
        of_digit: Indices into ``ink``, by digit.
        ink: ``(S, 16, 16)`` in 0..1.
        pieces: Every 8 x 8 piece of them, ``(S, 9, 9, 8, 8)``, a view of ``ink``.
    """

    of_digit: tuple[np.ndarray, ...]
    ink: np.ndarray
    pieces: np.ndarray


Paint = Callable[[np.random.Generator, Samples, Sequence[Object], np.ndarray], None]


def objects_of(split: str, ids: Sequence[int]) -> tuple[tuple[Object, ...], ...]:
    """Return the objects of each picture in raster order, without drawing the picture.

    Args:
        split: Split, "train" or "heldout".
        ids: Non-negative integers, one per picture.

    Raises:
        UsageError: The split is unknown, or an id is negative.

    Example:
        >>> one = objects_of("train", [5])[0]
        >>> one == objects_of("train", [4, 5])[1], len({o.digit for o in one}) == len(one)
        (True, True)
    """
    return tuple(tuple(sorted(_layout(rng))) for rng in _generators(split, ids))


def pictures(split: str, ids: Sequence[int]) -> Pictures:
    """Draw pictures; each is a pure function of its split and id, independent of the batch.

    Args:
        split: Split, "train" or "heldout"; digits and pieces of a picture come from samples of its split only.
        ids: Non-negative integers, one per picture.

    Raises:
        UsageError: The split is unknown, or an id is negative.

    Example:
        >>> both, one = pictures("heldout", [3, 4]), pictures("heldout", [4])
        >>> bool((both.images[1] == one.images[0]).all()), int(one.relevant.sum()) == 4 * len(one.objects[0])
        (True, True)
    """
    return composed(split, ids, _paint)


def composed(split: str, ids: Sequence[int], paint: Paint) -> Pictures:
    """Draw pictures with a painter of one's own; objects, labels and rounding to whole bytes are the same for all.

    Args:
        split: Split, "train" or "heldout".
        ids: Non-negative integers, one per picture.
        paint: Function (generator, samples of the split, objects, canvas) that paints into the canvas ``(3, 80, 80)``,
            with values of at least 0; those above 255 become 255.

    Raises:
        UsageError: The split is unknown, or an id is negative.
    """
    generators = _generators(split, ids)
    samples = samples_of(split)
    canvas = np.empty((len(ids), 3, SIZE, SIZE), dtype=np.float32)
    labels = np.empty((2, len(ids), GRID, GRID), dtype=np.int8)
    labels[0], labels[1] = NO_DIGIT, NO_COLOUR
    layouts = []
    for row, rng in enumerate(generators):
        objects = _layout(rng)
        paint(rng, samples, objects, canvas[row])
        for o in objects:
            labels[:, row, o.row : o.row + SIDE, o.column : o.column + SIDE] = [[[o.digit]], [[o.colour]]]
        layouts.append(tuple(sorted(objects)))
    # Rounded to whole bytes, so that the model gets the same numbers as through an image file.
    np.minimum(canvas, 255, out=canvas)
    np.rint(canvas, out=canvas)
    canvas *= np.float32(1 / (255 * STD))
    canvas -= np.float32(MEAN / STD)
    digit_of, colour_of = labels.reshape(2, len(ids), GRID * GRID)
    return Pictures(canvas, digit_of != NO_DIGIT, digit_of, colour_of, tuple(layouts))


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Convert normalised images to bytes as in an image file, ``(B, 3, 80, 80) -> (B, 80, 80, 3)`` uint8.

    Example:
        >>> as_bytes(pictures("train", [0]).images).shape
        (1, 80, 80, 3)
    """
    return np.rint((images * STD + MEAN) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


@cache
def samples_of(split: str) -> Samples:
    """Return the handwritten digits of a split, enlarged twice."""
    samples = split_samples(split)
    data = handwritten_digits()
    small, edge = data.images[samples] / 16, SIDE * PATCH
    centre = (np.arange(edge) + 0.5) / 2 - 0.5  # bilinear: each of the 16 rows is a mixture of two of the 8
    enlarge = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(8)[None, :]))
    ink = np.clip(1.25 * enlarge @ small @ enlarge.T, 0, 1).astype(np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(ink, (PATCH, PATCH), axis=(1, 2))
    target = data.target[samples]
    return Samples(tuple(np.flatnonzero(target == digit) for digit in range(10)), ink, pieces)


def _generators(split: str, ids: Sequence[int]) -> list[np.random.Generator]:
    split_samples(split)  # raises on an unknown split
    if any(i < 0 for i in ids):
        raise UsageError(f"picture id {min(ids)} is negative; ids are whole numbers of at least 0")
    return [np.random.Generator(np.random.SFC64([_SPLIT[split], int(i)])) for i in ids]


def _layout(rng: np.random.Generator) -> list[Object]:
    """Draw the objects first from a picture's generator, so that they are the same whether it is painted or not."""
    count = int(rng.integers(LEAST, MOST + 1))
    digits, colours = rng.permutation(10)[:count].tolist(), rng.integers(0, len(COLOURS), count).tolist()
    places: list[tuple[int, int]] = []
    while len(places) < count:
        for row, column in rng.integers(0, PLACES, (2 * MOST, 2)).tolist():
            if all(abs(row - r) >= SIDE or abs(column - c) >= SIDE for r, c in places):
                places.append((row, column))
    return [Object(*place, digit, colour) for place, digit, colour in zip(places, digits, colours, strict=False)]


def strokes(
    rng: np.random.Generator, samples: Samples, objects: Sequence[Object], clutter: float, disguised: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the digits of a picture, and pieces of digits on other patches.

    Args:
        rng: Random number generator of the picture.
        samples: Digits of the split.
        objects: Digits of the picture.
        clutter: Share of the other patches that have a piece.
        disguised: Share of the pieces that have a colour of the digits.

    Returns:
        Ink ``(80, 80)`` in 0..1, and the colour of each patch ``(10, 10, 3)``, 0..255.
    """
    cells = GRID * GRID
    ink = np.zeros((SIZE, SIZE), dtype=np.float32)
    sample, (top, left) = rng.integers(0, len(samples.ink), cells), rng.integers(0, PATCH + 1, (2, cells))
    present = rng.random(cells) < clutter
    hue = rng.integers(len(COLOURS), len(_RGB), cells)
    if disguised:
        hue = np.where(rng.random(cells) < disguised, hue - len(COLOURS), hue)
    tint = _RGB[hue] * rng.uniform(0.8, 1.1, (cells, 1)).astype(np.float32)
    pieces = samples.pieces[sample, top, left] * present[:, None, None]
    ink.reshape(GRID, PATCH, GRID, PATCH)[:] = pieces.reshape(GRID, GRID, PATCH, PATCH).transpose(0, 2, 1, 3)
    tint = tint.reshape(GRID, GRID, 3)
    edge = SIDE * PATCH
    for o in objects:
        choice = samples.of_digit[o.digit]
        y, x = o.row * PATCH, o.column * PATCH
        ink[y : y + edge, x : x + edge] = samples.ink[choice[rng.integers(len(choice))]]
        tint[o.row : o.row + SIDE, o.column : o.column + SIDE] = _RGB[o.colour] * np.float32(rng.uniform(0.8, 1.1))
    return ink, tint


def _paint(rng: np.random.Generator, samples: Samples, objects: Sequence[Object], canvas: np.ndarray) -> None:
    ink, tint = strokes(rng, samples, objects, CLUTTER)
    spread = tint.transpose(2, 0, 1)[:, :, None, :, None]
    np.multiply(ink.reshape(GRID, PATCH, GRID, PATCH), spread, out=canvas.reshape(3, GRID, PATCH, GRID, PATCH))
    canvas += rng.integers(0, NOISE + 1, canvas.shape, dtype=np.uint8)

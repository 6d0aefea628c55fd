"""Procedural scenes: one whole handwritten digit in each of four colours, among clutter as bright and colourful.

A scene's class is its red digit. The clutter consists of pieces of digits in the same four colours and in others, so
that neither brightness nor colour alone identifies the patches that matter; only the whole shape of a digit does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradprobe.data.samples import handwritten_digits
from gradprobe.errors import UsageError, nearest

SIZE, PATCH = 112, 8  # pixels
GRID = SIZE // PATCH  # 14 x 14 patches, N = 196
BOX = 30  # a digit with its margin: (8 + 2) x 3 pixels
PIECE, CELLS = 12, 10  # clutter: 12-pixel pieces on a grid a little larger than the scene
NO_DIGIT, NO_COLOUR = 10, 4
MIN_INK = 2.0  # least summed ink (0..64) of a patch that belongs to a digit
MEAN, STD = 0.24, 0.27  # of all pixels; the same for the three channels, so that colours are preserved
SPLITS = {"train": 0, "heldout": 1}
HELDOUT_SHARE = 0.2

_HUES = np.array(
    # red, green, blue, yellow: the digits' colours; then magenta, cyan, orange, grey: colours of clutter alone
    [[1, 0.1, 0.1], [0.1, 1, 0.1], [0.15, 0.3, 1], [1, 0.95, 0.1], [1, 0.1, 1], [0.1, 1, 1], [1, 0.5, 0.05], [1, 1, 1]],
    dtype=np.float32,
)
COLOURS = _HUES / np.linalg.norm(_HUES, axis=1, keepdims=True)  # equal length: no colour is brighter than another
_COLOUR_SHARE = np.cumsum([0.19, 0.19, 0.19, 0.19, 0.06, 0.06, 0.06, 0.06])  # of the clutter's pieces


@dataclass(frozen=True)
class Scenes:
    """Batch of scenes with the ground truth of each patch.

    Attributes:
        images: Normalised images, ``(B, 3, 112, 112)`` float32.
        labels: Red digit, ``(B,)`` int64.
        digit_of: Digit that a patch belongs to, 10 for none, ``(B, 196)`` int8.
        colour_of: Colour of that digit, 0 red, 1 green, 2 blue, 3 yellow, 4 for no digit, ``(B, 196)`` int8.
        red: Mask of the patches of the red digit, ``(B, 196)`` bool.
    """

    images: np.ndarray
    labels: np.ndarray
    digit_of: np.ndarray
    colour_of: np.ndarray
    red: np.ndarray


@dataclass(frozen=True)
class Bank:
    """Handwritten digits of a split, enlarged three times.

    Attributes:
        digits: Label of each sample, ``(S,)``.
        ink: ``(S, 30, 30)`` in 0..1.
        room: Visibility of what is behind a digit, ``(S, 30, 30)`` in 0..1.
        pieces: Every 12 x 12 piece of them, ``(S, 19, 19, 12, 12)``, a view of ``ink``.
    """

    digits: np.ndarray
    ink: np.ndarray
    room: np.ndarray
    pieces: np.ndarray


Paint = Callable[[np.random.Generator, Bank, int, np.ndarray], None]


@cache
def split_samples(split: str) -> np.ndarray:
    """Return the samples of scikit-learn's ``load_digits`` in a split; "train" has 80 % of each digit.

    Args:
        split: Split, "train" or "heldout".

    Returns:
        Sorted indices into ``load_digits``; the two splits are disjoint and together have all 1797.

    Raises:
        UsageError: The split is unknown.

    Example:
        >>> len(split_samples("train")), len(split_samples("heldout"))
        (1438, 359)
    """
    if split not in SPLITS:
        raise UsageError(f"no split of the scenes is called {split!r}; {nearest(split, SPLITS)}")
    target = handwritten_digits().target
    shuffled = np.random.Generator(np.random.SFC64(0)).permutation(len(target))
    heldout = np.zeros(len(target), dtype=bool)
    for digit in range(10):
        samples = shuffled[target[shuffled] == digit]
        heldout[samples[: round(HELDOUT_SHARE * len(samples))]] = True
    return np.flatnonzero(heldout if split == "heldout" else ~heldout)


def scenes(split: str, ids: Sequence[int]) -> Scenes:
    """Draw scenes; each is a pure function of its split and id, independent of the batch.

    Args:
        split: Split, "train" or "heldout"; digits and clutter of a scene come from samples of its split only.
        ids: Non-negative integers, one per scene.

    Raises:
        UsageError: The split is unknown, or an id is negative.

    Example:
        >>> one, two = scenes("heldout", [3, 4]), scenes("heldout", [4])
        >>> bool((one.images[1] == two.images[0]).all()), int(one.red[0].sum()) < 20
        (True, True)
    """
    return composed(split, ids, bank_of(split), _paint)


def composed(split: str, ids: Sequence[int], bank: Bank, paint: Paint) -> Scenes:
    """Draw scenes with a painter of one's own for what is behind the digits; digits and labels are the same for all.

    Args:
        split: Split, "train" or "heldout".
        ids: Non-negative integers, one per scene.
        bank: Digits of the split.
        paint: Function (generator, bank, id, canvas) that fills the canvas ``(3, 112, 112)``. It draws two layers of
            `clutter` from the generator and nothing else: the digits are drawn from it afterwards.

    Raises:
        UsageError: The split is unknown, or an id is negative.
    """
    split_samples(split)  # raises on an unknown split
    if any(i < 0 for i in ids):
        raise UsageError(f"scene id {min(ids)} is negative; ids are whole numbers of at least 0")
    count = len(ids)
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.float32)
    digits = np.empty((count, 4), dtype=np.int64)
    ink = np.empty((count, 4, GRID, GRID), dtype=np.float32)
    for row, i in enumerate(ids):
        rng = np.random.Generator(np.random.SFC64([SPLITS[split], int(i)]))
        paint(rng, bank, int(i), images[row])
        digits[row], ink[row] = _digits(rng, bank, images[row])
    images -= MEAN
    images /= STD
    inked = ink.max(axis=1) >= MIN_INK
    colour_of = np.where(inked, ink.argmax(axis=1), NO_COLOUR).reshape(count, GRID * GRID).astype(np.int8)
    padded = np.column_stack([digits, np.full(count, NO_DIGIT)])
    digit_of = np.take_along_axis(padded, colour_of.astype(np.int64), axis=1).astype(np.int8)
    return Scenes(images, digits[:, 0].copy(), digit_of, colour_of, colour_of == 0)


@cache
def bank_of(split: str) -> Bank:
    """Return the digits of a split."""
    samples = split_samples(split)
    data = handwritten_digits()
    small = np.pad(data.images[samples] / 16, ((0, 0), (1, 1), (1, 1)))
    # Bilinear: each of the 30 rows is a mixture of two of the 10.
    centre = (np.arange(BOX) + 0.5) / 3 - 0.5
    enlarge = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(10)[None, :]))
    ink = np.clip(1.25 * enlarge @ small @ enlarge.T, 0, 1).astype(np.float32)
    near = np.pad(small, ((0, 0), (1, 1), (1, 1)))
    near = np.lib.stride_tricks.sliding_window_view(near, (3, 3), axis=(1, 2)).max(axis=(3, 4))
    room = 1 - np.clip(4 * enlarge @ near @ enlarge.T, 0, 1).astype(np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(ink, (PIECE, PIECE), axis=(1, 2))
    return Bank(data.target[samples], ink, room, pieces)


def _paint(rng: np.random.Generator, bank: Bank, _: int, canvas: np.ndarray) -> None:
    canvas[:] = 0
    for _ in range(2):  # two layers of pieces on two grids, so that no grid is visible
        clutter(rng, bank, canvas)


def _digits(rng: np.random.Generator, bank: Bank, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint the four digits of a scene; return them by colour, and their ink in each patch."""
    samples = rng.integers(0, len(bank.digits), 4)
    quadrant = rng.permutation(4)  # one digit in each quarter of the scene: they never overlap
    free = SIZE // 2 - BOX + 1
    tops = quadrant // 2 * (SIZE // 2) + rng.integers(0, free, 4)
    lefts = quadrant % 2 * (SIZE // 2) + rng.integers(0, free, 4)
    colours = shaded(rng, np.arange(4))
    ink = np.zeros((4, SIZE, SIZE), dtype=np.float32)
    for colour, (sample, top, left) in enumerate(zip(samples, tops, lefts, strict=True)):
        rows, columns = slice(top, top + BOX), slice(left, left + BOX)
        canvas[:, rows, columns] *= bank.room[sample]
        canvas[:, rows, columns] += bank.ink[sample] * colours[colour][:, None, None]
        ink[colour, rows, columns] = bank.ink[sample]
    canvas += rng.integers(0, 256, canvas.shape, dtype=np.uint8) * np.float32(0.15 / 255)
    by_row = ink.reshape(4, GRID, PATCH, SIZE).sum(axis=2)
    return bank.digits[samples], by_row.reshape(4, GRID, GRID, PATCH).sum(axis=3)


def clutter(rng: np.random.Generator, bank: Bank, canvas: np.ndarray) -> None:
    """Paint a layer of coloured pieces of digits over the canvas."""
    count = CELLS * CELLS
    sample = rng.integers(0, len(bank.digits), count)
    # From the middle of the box, since a piece at its edge could have no ink.
    row, column = rng.integers(4, BOX - PIECE - 3, (2, count))
    colour = shaded(rng, np.searchsorted(_COLOUR_SHARE, rng.random(count) * _COLOUR_SHARE[-1], side="right"))
    present = rng.random(count, dtype=np.float32) < 0.42
    pieces = bank.pieces[sample, row, column] * present[:, None, None]
    alpha = pieces.reshape(CELLS, CELLS, PIECE, PIECE).transpose(0, 2, 1, 3).reshape(CELLS * PIECE, CELLS * PIECE)
    tint = colour.T.reshape(3, CELLS, CELLS).repeat(PIECE, axis=2).repeat(PIECE, axis=1)
    top, left = rng.integers(0, CELLS * PIECE - SIZE + 1, 2)
    tint = tint[:, top : top + SIZE, left : left + SIZE]
    canvas += alpha[top : top + SIZE, left : left + SIZE] * (tint - canvas)


def shaded(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Return the RGB of each colour index, slightly varied in hue and brightness."""
    rgb = COLOURS[colour] + rng.uniform(-0.06, 0.06, (len(colour), 3)).astype(np.float32)
    return rgb * rng.uniform(0.85, 1.1, (len(colour), 1)).astype(np.float32)

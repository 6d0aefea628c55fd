"""Pictures of digits among pieces of digits, as in `pictures`, on crops of photographs.

A background as diverse as what a real tower sees: on the plain one, whatever is diverse is relevant.
"""

import hashlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from gradprobe.data.pictures import GRID, PATCH, SIDE, SIZE, Object, Pictures, Samples, composed, strokes
from gradprobe.data.samples import sklearn_datasets
from gradprobe.errors import GradprobeError

CLUTTER = 0.3  # share of the patches without a digit that have a piece of one
DISGUISED = 0.35  # share of the pieces in the digits' colours: a colour does not tell a digit from a piece
BRIGHTNESS = (0.35, 0.85)  # of a crop, as factors
TINT = (0.85, 1.15)  # of each of its channels
HALO = 0.6  # share of the background that is taken away next to strokes, so that digits can be read
NOISE = 12  # largest value (of 255) of the noise added to every pixel
SCALES = (1.0, 0.7, 0.5)
# Shares of a photograph's width, or height for the upright one; training and held-out regions share no pixel.
BANDS = {"train": ((0.0, 0.31), (0.5, 0.81)), "heldout": ((0.31, 0.5), (0.81, 1.0))}
PHOTOGRAPHS = "7af7f6"  # first digits of the SHA-256 of the decoded photographs with which the models were trained


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Return the photographs that come with scikit-learn (china, flower) and matplotlib (grace_hopper), uint8.

    Raises:
        GradprobeError: A library was installed without them.
    """
    import matplotlib

    images = sklearn_datasets() / "images"
    portrait = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    try:
        return tuple(_decoded(path) for path in (images / "china.jpg", images / "flower.jpg", portrait))
    except OSError as error:
        raise GradprobeError(
            f"the sample photographs of scikit-learn and matplotlib are not installed ({error}); install both from "
            "their wheels: pip install --force-reinstall scikit-learn matplotlib"
        ) from None


def _decoded(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@cache
def fingerprint() -> str:
    """Return the name of the pictures' data: ``photos``, and a hash if a library decodes its photographs otherwise."""
    pixels = hashlib.sha256(b"".join(photo.tobytes() for photo in photographs())).hexdigest()[: len(PHOTOGRAPHS)]
    return "photos" if pixels == PHOTOGRAPHS else f"photos:{pixels}"


def photos(split: str, ids: Sequence[int]) -> Pictures:
    """Draw pictures on photographs; each is a pure function of its split and id, independent of the batch.

    Objects, and so captions and questions, are those of `gradprobe.data.pictures.pictures` of the same split and id.

    Args:
        split: Split, "train" or "heldout", of the digits' samples and of the photographs' regions.
        ids: Non-negative integers, one per picture.

    Raises:
        UsageError: The split is unknown, or an id is negative.
        GradprobeError: The photographs are not installed.

    Example:
        >>> both, one = photos("heldout", [3, 4]), photos("heldout", [4])
        >>> bool((both.images[1] == one.images[0]).all()), int(one.relevant.sum()) == 4 * len(one.objects[0])
        (True, True)
    """
    return composed(split, ids, partial(_paint, split))


@cache
def regions(split: str, least: int = SIZE) -> tuple[np.ndarray, ...]:
    """Return the regions of a split at each scale, uint8 ``(H, W, 3)``, those of at least ``least`` pixels a side."""
    from PIL import Image

    scaled = []
    for photo in photographs():
        for first, last in BANDS[split]:
            along = int(photo.shape[0] < photo.shape[1])  # the longer axis
            where = [slice(None), slice(None)]
            where[along] = slice(round(first * photo.shape[along]), round(last * photo.shape[along]))
            part = Image.fromarray(np.ascontiguousarray(photo[tuple(where)]))
            for scale in SCALES:
                size = (round(part.width * scale), round(part.height * scale))
                if min(size) >= least:
                    scaled.append(np.asarray(part.resize(size, Image.Resampling.BOX)))
    return tuple(scaled)


def patches_of(images: np.ndarray) -> np.ndarray:
    """Return the pixels of each patch, ``(B, 3, 80, 80) -> (B, 100, 192)``."""
    cells = images.reshape(len(images), 3, GRID, PATCH, GRID, PATCH).transpose(0, 2, 4, 1, 3, 5)
    return cells.reshape(len(images), GRID * GRID, 3 * PATCH * PATCH)


def _paint(
    split: str, rng: np.random.Generator, samples: Samples, objects: Sequence[Object], canvas: np.ndarray
) -> None:
    background(rng, regions(split), canvas)
    ink, tint = strokes(rng, samples, objects, CLUTTER, DISGUISED)
    shade = ink.copy()
    edge = SIDE * PATCH
    for o in objects:
        y, x = o.row * PATCH, o.column * PATCH
        shade[y : y + edge, x : x + edge] = _dilated(ink[y : y + edge, x : x + edge])
    canvas *= 1 - HALO * shade
    colours = tint.transpose(2, 0, 1).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
    canvas += ink * (colours - canvas)
    canvas += rng.integers(0, NOISE + 1, canvas.shape, dtype=np.uint8)


def background(rng: np.random.Generator, bank: Sequence[np.ndarray], canvas: np.ndarray) -> None:
    """Paint two crops with a random border between them: several textures in a picture.

    Args:
        rng: Random number generator of the picture.
        bank: Regions of the split, at least as large as the canvas.
        canvas: Square of patches of 8 pixels, ``(3, S, S)``; gets values of 0..255.
    """
    edge = canvas.shape[1]
    border, across = int(rng.integers(2, edge // PATCH - 1)) * PATCH, rng.integers(2)
    for half in (slice(0, border), slice(border, edge)):
        region = bank[int(rng.integers(len(bank)))]
        y, x = (int(rng.integers(0, length - edge + 1)) for length in region.shape[:2])
        crop = region[y : y + edge, x : x + edge].transpose(2, 0, 1)
        down, left, turned = rng.integers(0, 2, 3)
        crop = crop[:, ::-1] if down else crop
        crop = crop[:, :, ::-1] if left else crop
        crop = (crop.transpose(0, 2, 1) if turned else crop)[rng.permutation(3)]
        gain = rng.uniform(*BRIGHTNESS) * rng.uniform(*TINT, (3, 1, 1))
        where: tuple[slice, ...] = (slice(None), slice(None), half) if across else (slice(None), half, slice(None))
        canvas[where] = crop[where] * gain.astype(np.float32)


def _dilated(ink: np.ndarray) -> np.ndarray:
    """Return the largest ink within one pixel."""
    wide = np.pad(ink, 1)
    rows = np.maximum(np.maximum(wide[:-2], wide[1:-1]), wide[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])

"""Reader of picture files: upright, 8 bits, RGB, on white; an unusable picture raises an error with the reason.

timm and torchvision ignore EXIF orientation and drop alpha; here a picture looks as in a viewer, except that colour
profiles are ignored.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gradprobe.errors import GradprobeError
from gradprobe.files import open_regular

LONGEST = 200  # largest aspect ratio: Qwen's processors refuse larger ones, and no model gets anything from them
PIXELS = 2 * 89_478_485  # Pillow's limit, beyond which a picture counts as a decompression bomb
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
_TRANSPARENT = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # for these depths Pillow scales pixels but not tRNS


class PictureError(GradprobeError):
    """Picture that cannot be used; the text continues a sentence that begins with the file's name."""


def read_picture(path: str | Path | BytesIO) -> Image.Image:
    """Return a picture file as a viewer shows it, in mode RGB.

    16-bit grey is scaled to 8 bits, transparent parts are put on white, and EXIF orientation is applied. Plain upright
    RGB is returned bit for bit as Pillow decodes it. Of an animation the first frame is read.

    Args:
        path: Path of the file, or its content; the content, not the suffix, determines the format.

    Raises:
        PictureError: The file does not exist, is not a picture or is broken, or the picture is more than 200 times as
            long as wide or has more than 179 million pixels.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "half.png"
        >>> Image.new("RGBA", (2, 1), (255, 0, 0, 0)).save(path)
        >>> read_picture(path).getpixel((0, 0))
        (255, 255, 255)
    """
    try:
        with path if isinstance(path, BytesIO) else open_regular(Path(path)) as content, Image.open(content) as file:
            _check(file)
            raw = file.tile[0][3] if file.format == "PNG" and file.tile else None
            file.load()
            picture = _rgb(file, raw)
            turn = _TURNS.get(_orientation(file))
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureError("is no picture of a known format") from None
    except Image.DecompressionBombError:
        raise PictureError("has too many pixels") from None
    except Exception as error:  # Pillow raises many kinds of errors on broken files
        strerror = getattr(error, "strerror", None)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"cannot be opened ({strerror})" if strerror else f"is broken ({reason})") from None
    return picture if turn is None else picture.transpose(turn)


def is_plain(path: str | Path) -> bool:
    """Return True if the header shows a picture that every reader decodes alike: upright, opaque, 8 bits, usual shape.

    A file that no reader can decode counts as plain too.
    """
    try:
        with open_regular(Path(path)) as content, Image.open(content) as file:
            _check(file)
            wide = file.mode == "F" or file.mode.startswith("I")
            return not wide and not file.has_transparency_data and _orientation(file) in (None, 1)
    except (PictureError, Image.DecompressionBombError):
        return False
    except Exception:  # Pillow raises many kinds of errors on broken files
        return True


def _check(file: Image.Image) -> None:
    """Refuse a picture that should not be decoded, by its header."""
    width, height = file.size
    if file.format == "EPS":
        raise PictureError("is a program (EPS), no picture")  # Pillow would run it with Ghostscript
    if max(width, height) > LONGEST * min(width, height):
        raise PictureError(f"is {width} x {height}, more than {LONGEST} times as long as wide")
    if width * height > PIXELS:
        raise PictureError(f"is {width} x {height}, more than {PIXELS} pixels")


def _rgb(file: Any, raw: Any) -> Image.Image:
    """Return the pixels of a decoded file; ``raw`` is the storage format of a PNG's pixels."""
    transparent = file.info.get("transparency")
    if file.mode == "F" or file.mode.startswith("I"):
        grey = np.asarray(file)
        picture = Image.fromarray(_eight_bits(file, grey))
        if transparent is not None:
            picture.paste(255, mask=Image.fromarray(grey == transparent))
        return picture.convert("RGB")
    if transparent is not None and raw in _TRANSPARENT:
        scaled = [int(value * _TRANSPARENT[raw]) for value in np.atleast_1d(transparent)]
        file.info["transparency"] = tuple(scaled) if len(scaled) > 1 else scaled[0]
    if file.has_transparency_data:
        white = Image.new("RGBA", file.size, "white")
        return Image.alpha_composite(white, file.convert("RGBA")).convert("RGB")
    return file.convert("RGB")


def _eight_bits(file: Any, grey: np.ndarray) -> np.ndarray:
    """Return grey of 16 bits, or of integers or floats (the range follows from their values), as 0..255."""
    tags = getattr(file, "tag_v2", {})  # of a TIFF
    if file.mode.startswith("I;16"):
        ranges = [2 ** int(np.max(tags.get(ExifTags.Base.BitsPerSample, 16))) - 1]
    elif file.mode == "I" and file.format in ("PNG", "PPM"):
        ranges = [65535]
    else:
        ranges = [255, 65535] if file.mode == "I" else [1, 255, 65535]
    low, high = float(grey.min()), float(grey.max())
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top is None:
        raise PictureError(f"has grey values from {low:g} to {high:g}, no range of a picture")
    scaled = np.rint(grey.astype(np.float64) * (255 / top)).astype(np.uint8)
    return 255 - scaled if tags.get(ExifTags.Base.PhotometricInterpretation) == 0 else scaled  # 0: white is zero


def _orientation(file: Image.Image) -> Any:
    """Return the EXIF orientation; None without EXIF or with broken EXIF."""
    try:
        return file.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken bytes raise many kinds of errors; the picture is shown as it is stored
        return None

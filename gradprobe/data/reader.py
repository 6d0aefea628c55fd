"""The one reader of picture files: upright, 8 bits, RGB, on white; a picture that cannot be used says why.

timm and torchvision ignore EXIF orientation and drop alpha; here a picture is what a person sees in a viewer, but for
colour profiles, which are left out here too.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gradprobe.errors import GradprobeError
from gradprobe.files import open_regular

LONGEST = 200  # times as long as wide: beyond it Qwen's processors refuse a picture, and no model sees anything in it
PIXELS = 2 * 89_478_485  # from here on Pillow takes a picture for a decompression bomb
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
_TRANSPARENT = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # Pillow scales pixels of these depths, not the PNG's tRNS


class PictureError(GradprobeError):
    """A picture that cannot be used; the text goes on after its name."""


def read_picture(path: str | Path) -> Image.Image:
    """Return a picture file as a person sees it, in mode RGB.

    16-bit grey is scaled to 8 bits, transparent parts lie on white, and EXIF orientation is heeded. Plain upright RGB
    comes out bit by bit as Pillow decodes it. Of an animation the first frame is read.

    Args:
        path: of the file; its content decides the format, not its suffix.

    Raises:
        PictureError: no such file, no picture, a broken one, one without a pixel in every 200 of its length, or one of
            more than 179 million pixels.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "half.png"
        >>> Image.new("RGBA", (2, 1), (255, 0, 0, 0)).save(path)
        >>> read_picture(path).getpixel((0, 0))
        (255, 255, 255)
    """
    try:
        with open_regular(Path(path)) as content, Image.open(content) as file:
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
    except Exception as error:  # Pillow's decoders fail in many ways on broken files
        strerror = getattr(error, "strerror", None)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"cannot be opened ({strerror})" if strerror else f"is broken ({reason})") from None
    return picture if turn is None else picture.transpose(turn)


def is_plain(path: str | Path) -> bool:
    """Tell by its header whether every reader gives the same pixels: upright, opaque, 8 bits, of a usual shape.

    A file that is no picture to any of them is plain too.
    """
    try:
        with open_regular(Path(path)) as content, Image.open(content) as file:
            _check(file)
            wide = file.mode == "F" or file.mode.startswith("I")
            return not wide and not file.has_transparency_data and _orientation(file) in (None, 1)
    except (PictureError, Image.DecompressionBombError):
        return False
    except Exception:  # Pillow's decoders fail in many ways on broken files
        return True


def _check(file: Image.Image) -> None:
    """Refuse by its header a picture that should not be decoded."""
    width, height = file.size
    if file.format == "EPS":
        raise PictureError("is a program (EPS), no picture")  # Pillow would have Ghostscript run it
    if max(width, height) > LONGEST * min(width, height):
        raise PictureError(f"is {width} x {height}, more than {LONGEST} times as long as wide")
    if width * height > PIXELS:
        raise PictureError(f"is {width} x {height}, more than {PIXELS} pixels")


def _rgb(file: Any, raw: Any) -> Image.Image:
    """Return the pixels of a decoded file; ``raw`` is how a PNG stores them."""
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
    """Return grey of 16 bits, or of integers or floats whose range their values tell, as 0..255."""
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
    """Return the EXIF orientation; None where there is none, or where EXIF is broken and the pixels are not."""
    try:
        return file.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None

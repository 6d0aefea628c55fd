"""Pack real weights and pictures for a machine without a network: a folder that is small enough to be sent along.

Takes DeiT-Tiny's weights as they are, and pictures as small as the model's preprocessing leaves them (shorter side 248,
of which it cuts 224), as WebP of the highest quality with which all fits. Numbers of packed pictures are not those of
the originals.

    GRADPROBE_ASSETS=DIR PYTHONPATH=. python benchmarks/gpu_pack.py [--mib 25] [--out gpu-assets]
"""

import argparse
import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu_steps.step import ROOT, SAMPLE, TEST, TRAIN, WEIGHTS
from PIL import Image

from gradprobe.data.fingerprints import image_files
from gradprobe.data.reader import PictureError, read_picture
from gradprobe.errors import GradprobeError, UsageError

FOLDERS = (SAMPLE, TRAIN, TEST)
SIDE = 248  # pixels of the shorter side
QUALITIES = (90, 80, 70, 60, 50, 40, 30)
EVERY = 20  # one picture in so many is encoded first, to see whether a quality can fit
MIB = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=float, default=25, help="most that the folder may take, in MiB")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-assets")
    given = parser.parse_args(arguments)
    try:
        named = os.environ.get("GRADPROBE_ASSETS")
        if not named:
            raise UsageError("set GRADPROBE_ASSETS to the folder with deit_tiny_patch16_224 and the pictures")
        for line in pack(Path(named), given.out, given.mib):
            print(line, flush=True)
    except GradprobeError as error:
        print(f"gpu_pack.py: {error}", file=sys.stderr)
        return 2
    return 0


def pack(assets: Path, out: Path, mib: float) -> Iterator[str]:
    """Write the folder anew, yielding lines on what it took.

    Args:
        assets: Folder of the originals.
        out: Folder to write; one that is there is replaced.
        mib: Most that it may take.

    Raises:
        UsageError: There are no such weights or pictures, they do not fit, or ``out`` is some other folder.
    """
    if not (assets / WEIGHTS).is_file():
        raise UsageError(f"{assets} holds no {WEIGHTS}")
    if out.is_dir() and any(out.iterdir()) and not (out / WEIGHTS).is_file():
        raise UsageError(f"{out} is not a folder of packed assets; name another with --out")
    pictures = {folder: [assets / folder / name for name in image_files(assets / folder)] for folder in FOLDERS}
    weights = (assets / WEIGHTS).stat().st_size
    quality, contents = fitting([path for paths in pictures.values() for path in paths], mib * MIB - weights)
    made = out.with_name(f"{out.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    (made / WEIGHTS).parent.mkdir(parents=True)
    shutil.copyfile(assets / WEIGHTS, made / WEIGHTS)
    yield f"{WEIGHTS}: {weights / MIB:.1f} MiB"
    for folder, paths in pictures.items():
        kept = {path: content for path in paths if (content := contents[path]) is not None}
        for path, content in kept.items():
            target = (made / folder / path.relative_to(assets / folder)).with_suffix(".webp")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield from (f"{path}: cannot be read, left out" for path in paths if path not in kept)
        size = sum(map(len, kept.values())) / MIB
        yield f"{folder}: {len(kept)} pictures, {size:.1f} MiB, WebP of quality {quality}"
    shutil.rmtree(out, ignore_errors=True)
    made.rename(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / MIB
    yield f"{out}: {size:.1f} MiB of at most {mib:g}"


def fitting(paths: list[Path], most: float) -> tuple[int, dict[Path, bytes | None]]:
    """Return the highest quality with which all pictures fit, and the pictures; None for one that cannot be read.

    Raises:
        UsageError: Not even the lowest one is enough.
    """
    sample, total = paths[::EVERY], 0.0
    for quality in QUALITIES:
        total = sum(len(each) for each in encoded(sample, quality) if each) * len(paths) / len(sample)
        if total <= most:
            contents = dict(zip(paths, encoded(paths, quality), strict=True))
            total = sum(len(each) for each in contents.values() if each)
            if total <= most:
                return quality, contents
    raise UsageError(f"{len(paths)} pictures take {total / MIB:.1f} MiB at the lowest quality; give a larger --mib")


def encoded(paths: Iterable[Path], quality: int) -> Iterator[bytes | None]:
    """Yield each picture as WebP; None for one that cannot be read."""

    def encode(path: Path) -> bytes | None:
        try:
            picture = read_picture(path)
        except PictureError:
            return None
        content = io.BytesIO()
        smaller(picture).save(content, "WEBP", quality=quality, method=4)
        return content.getvalue()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(encode, paths)


def smaller(picture: Image.Image) -> Image.Image:
    """Return the centre square of a picture whose shorter side is at most `SIDE` pixels; never larger than it was.

    Example:
        >>> smaller(Image.new("RGB", (500, 400))).size, smaller(Image.new("RGB", (100, 90))).size
        ((248, 248), (90, 90))
    """
    short = min(picture.size)
    side = min(SIDE, short)
    if short > SIDE:
        picture = picture.resize([round(length * SIDE / short) for length in picture.size], Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


if __name__ == "__main__":
    sys.exit(main())

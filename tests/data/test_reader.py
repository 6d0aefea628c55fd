"""One reader for all picture files: each kind of pixel as a viewer shows it, and what is no usable picture says why."""

import io
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from gradprobe.cli.options import opened_image
from gradprobe.data.images import ImageFolder
from gradprobe.data.reader import LONGEST, PIXELS, PictureError, read_picture
from gradprobe.errors import UsageError
from gradprobe.vlm.captions import open_captions

RAMP = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)  # every grey


def pixels(path) -> np.ndarray:
    picture = read_picture(path)
    assert picture.mode == "RGB" and type(picture) is Image.Image
    return np.asarray(picture)


def grey(values) -> np.ndarray:
    return np.asarray(values, np.uint8)[..., None].repeat(3, -1)


def tiff(bits: int, data: bytes, shape: tuple[int, int], white_is_zero: bool = False, order: str = "<") -> bytes:
    """One uncompressed channel of unsigned integers."""
    tags = ((256, shape[1]), (257, shape[0]), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8),
            (277, 1), (278, shape[0]), (279, len(data)))  # fmt: skip
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data)) + data
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def png(kind: int, bits: int, size: tuple[int, int], rows: list[bytes], transparent: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0))]
    parts += [chunk(b"tRNS", transparent)] * bool(transparent)
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SIXTEEN = RAMP.astype(np.uint16) * 257
DEEP = {
    "16.png": lambda path: Image.fromarray(SIXTEEN).save(path),
    "16.tif": lambda path: Image.fromarray(SIXTEEN).save(path),
    "lzw.tif": lambda path: Image.fromarray(SIXTEEN).save(path, compression="tiff_lzw"),
    "big.tif": lambda path: path.write_bytes(tiff(16, SIXTEEN.astype(">u2").tobytes(), RAMP.shape, order=">")),
    "white-is-zero.tif": lambda path: path.write_bytes(tiff(16, (65535 - SIXTEEN).tobytes(), RAMP.shape, True)),
    "16.pgm": lambda path: path.write_bytes(b"P5 256 4 65535\n" + SIXTEEN.astype(">u2").tobytes()),
    "12.pgm": lambda path: path.write_bytes(b"P5 256 4 4095\n" + np.rint(RAMP * (4095 / 255)).astype(">u2").tobytes()),
    "integers.tif": lambda path: Image.fromarray(SIXTEEN.astype(np.int32)).save(path),
    "small integers.tif": lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path),
    "share.tif": lambda path: Image.fromarray(RAMP.astype(np.float32) / 255).save(path),
    "floats.tif": lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path),
    "large floats.tif": lambda path: Image.fromarray(SIXTEEN.astype(np.float32)).save(path),
    "8.png": lambda path: Image.fromarray(RAMP).save(path),
}


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_any_depth_is_scaled_to_the_grey_of_8_bits(tmp_path, name):
    DEEP[name](tmp_path / name)
    assert np.array_equal(pixels(tmp_path / name), grey(RAMP))


def test_16_bits_round_to_the_nearest_grey_and_no_range_is_stretched(tmp_path):
    values = np.array([[0, 128, 129, 386, 30_000, 65_406, 65_407, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 2, 117, 254, 255, 255]
    Image.fromarray(values[:, :2]).save(tmp_path / "dark.png")  # a dark picture stays dark
    assert pixels(tmp_path / "dark.png").max() == 0


def test_12_bits_of_a_tiff_reach_white(tmp_path):
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])  # 0, 4095, 2048, 16
    (tmp_path / "12.tif").write_bytes(tiff(12, packed, (1, 4)))
    assert pixels(tmp_path / "12.tif")[0, :, 0].tolist() == [0, 255, 128, 1]


@pytest.mark.parametrize("values", [[-1, 5], [0, 70_000], [0.5, float("nan")], [0.0, 1e9]])
def test_grey_without_a_range_is_refused(tmp_path, values):
    kind = np.int32 if isinstance(values[0], int) else np.float32
    Image.fromarray(np.array([values], kind)).save(tmp_path / "x.tif")
    with pytest.raises(PictureError, match="has grey values from"):
        read_picture(tmp_path / "x.tif")


COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_alpha_lies_on_white(tmp_path, suffix):
    alpha = RAMP[:, ::-1]
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    assert np.abs(pixels(tmp_path / f"a.{suffix}") - on_white(COLOURS, alpha)).max() <= 1


def test_alpha_of_grey_lies_on_white(tmp_path):
    Image.merge("LA", (Image.fromarray(RAMP), Image.fromarray(RAMP[:, ::-1].copy()))).save(tmp_path / "a.png")
    assert np.abs(pixels(tmp_path / "a.png") - on_white(grey(RAMP), RAMP[:, ::-1])).max() <= 1
    deep = np.stack([SIXTEEN, SIXTEEN[:, ::-1]], -1).astype(">u2")
    (tmp_path / "deep.png").write_bytes(png(4, 16, (256, 4), [row.tobytes() for row in deep]))
    assert np.abs(pixels(tmp_path / "deep.png") - on_white(grey(RAMP), RAMP[:, ::-1])).max() <= 1


def test_opaque_alpha_changes_nothing(tmp_path):
    Image.fromarray(COLOURS).convert("RGBA").save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), COLOURS)


def test_a_transparent_colour_becomes_white(tmp_path):
    wanted = grey(RAMP).copy()
    wanted[RAMP == 7] = 255
    picture = Image.fromarray(RAMP)
    picture.save(tmp_path / "grey.png", transparency=7)
    picture.convert("RGB").save(tmp_path / "rgb.png", transparency=(7, 7, 7))
    Image.fromarray(SIXTEEN).save(tmp_path / "deep.png", transparency=7 * 257)
    picture.save(tmp_path / "a.gif", transparency=7)
    rows = [np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in SIXTEEN]
    (tmp_path / "deep rgb.png").write_bytes(png(2, 16, (256, 4), rows, struct.pack(">HHH", *[7 * 257] * 3)))
    for name in ("grey.png", "rgb.png", "deep.png", "a.gif", "deep rgb.png"):
        assert np.array_equal(pixels(tmp_path / name), wanted), name


def test_a_transparent_colour_of_few_bits_becomes_white(tmp_path):
    for bits, row, wanted in (
        (1, b"\x40", [0, 255, 0, 0]),
        (2, b"\x1b", [0, 255, 170, 255]),
        (4, b"\x01\x2f", [0, 255, 34, 255]),
    ):
        (tmp_path / "a.png").write_bytes(png(0, bits, (4, 1), [row], b"\0\1"))
        assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == wanted, bits


def test_palettes_may_be_transparent(tmp_path):
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 0])
    palette.putdata([0, 1, 2])
    palette.save(tmp_path / "plain.png")
    assert pixels(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 0]]]
    palette.save(tmp_path / "a.png", transparency=bytes([255, 0, 127]))
    assert pixels(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255], [128, 128, 128]]]
    palette.save(tmp_path / "one.png", transparency=2)
    assert pixels(tmp_path / "one.png").tolist() == [[[10, 20, 30], [200, 100, 0], [255, 255, 255]]]


def test_one_bit_and_cmyk_are_as_before(tmp_path):
    Image.fromarray(RAMP).convert("1").save(tmp_path / "1.png")
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    Image.fromarray(RAMP).save(tmp_path / "grey.jpg")
    for name in ("1.png", "cmyk.jpg", "grey.jpg"):
        with Image.open(tmp_path / name) as file:
            assert np.array_equal(pixels(tmp_path / name), np.asarray(file.convert("RGB")))
    assert set(pixels(tmp_path / "1.png").ravel().tolist()) == {0, 255}
    assert np.abs(pixels(tmp_path / "cmyk.jpg").astype(int) - COLOURS).mean() < 4


def test_plain_upright_rgb_is_bit_by_bit_what_pillow_decodes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    for name in ("a.jpg", "a.png", "a.bmp", "a.webp"):
        Image.fromarray(noise).save(tmp_path / name)
        with Image.open(tmp_path / name) as file:
            assert np.array_equal(pixels(tmp_path / name), np.asarray(file.convert("RGB")))


TURNED = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_heeded(tmp_path, suffix, orientation):
    """Stored turned, shown upright: what is stored is what a camera held so would have written."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[8:, :16], upright[:8, 16:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(TURNED[orientation](upright))).save(
        tmp_path / f"a.{suffix}", exif=exif, **options
    )
    assert np.abs(pixels(tmp_path / f"a.{suffix}").astype(int) - upright).max() <= 6


def test_16_bits_and_alpha_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(SIXTEEN).copy()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), grey(RAMP))
    Image.fromarray(np.rot90(np.dstack([COLOURS, RAMP])).copy()).save(tmp_path / "b.png", exif=exif)
    assert pixels(tmp_path / "b.png").shape == (4, 256, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_orientations_without_a_meaning_turn_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), grey(RAMP))


def test_broken_exif_beside_good_pixels_is_ignored(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of corrupt EXIF
        assert pixels(tmp_path / "a.jpg").shape == (4, 256, 3)


def test_long_pictures_are_refused_beyond_the_limit_only(tmp_path):
    for size in ((1, LONGEST), (LONGEST, 1), (3, 600)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        assert read_picture(tmp_path / "a.png").size == size
    for size in ((1, 400), (400, 1), (2, 2 * LONGEST + 1)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        with pytest.raises(PictureError, match=f"is {size[0]} x {size[1]}, more than 200 times as long as wide"):
            read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("side", [100_000, 2_000_000_000])
def test_a_huge_picture_is_refused_by_its_header(tmp_path, side, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(png(2, 8, (side, side), [bytes(100)]))
    with pytest.raises(PictureError, match="pixels"):
        read_picture(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as programs do that trust their files
    with pytest.raises(PictureError, match=f"more than {PIXELS} pixels"):
        read_picture(tmp_path / "bomb.png")


def broken(folder) -> dict[str, str]:
    """Files that are no usable pictures, and a part of the reason."""
    Image.fromarray(COLOURS).save(folder / "cut.jpg")
    for name in ("cut.jpg", "cut.png", "cut.webp", "cut.bmp"):
        noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:900])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    Image.new("RGB", (1, 400)).save(folder / "long.png")
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.png"))
    (folder / "device.bmp").symlink_to("/dev/zero")
    return {
        "cut.jpg": "is broken", "cut.png": "is broken", "cut.webp": "no picture|is broken", "cut.bmp": "is broken",
        "text.png": "no picture of a known format", "empty.jpg": "no picture of a known format",
        "eps.jpg": r"a program \(EPS\)|no picture", "gone.jpg": "cannot be opened", "long.png": "is 1 x 400",
        "pipe.jpg": "no regular file", "socket.png": "cannot be opened", "device.bmp": "no regular file",
    }  # fmt: skip


def in_time(do):
    """Return the result of a call; a pipe that is opened would wait for ever."""
    found = []
    thread = threading.Thread(target=lambda: found.append(do()), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it hangs, or failed"
    return found[0]


def test_what_is_no_usable_picture_says_why_and_no_pipe_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short

    def reason(name: str) -> str:
        try:
            read_picture(name)
        except PictureError as error:
            return str(error)
        return "read"

    for name, wanted in broken(tmp_path).items():
        text = in_time(lambda name=name: reason(name))
        assert re.search(wanted, text) and "\n" not in text and str(tmp_path) not in text, (name, text)


def test_the_same_files_are_passed_over_in_all_three_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = set(broken(tmp_path))
    deep = Image.fromarray(SIXTEEN)
    exif = Image.Exif()
    exif[0x0112] = 3
    deep.save("good.png", exif=exif)
    wanted = grey(RAMP[:, ::-1])

    folder = ImageFolder.open(tmp_path, lambda image: _tensor(image))
    assert np.array_equal(in_time(lambda: folder.take(range(len(folder)), 0, 1)).images[0].numpy(), wanted)
    for i in range(len(folder)):
        in_time(lambda i=i: (folder._decode(i), True))
    assert set(folder.skipped) == bad

    lines = [f'{{"image": "{name}", "caption": "x"}}\n' for name in [*sorted(bad), "good.png"]]
    (tmp_path / "captions.jsonl").write_text("".join(lines))
    captions = open_captions(tmp_path, held_out=0)
    (example,) = in_time(lambda: captions.train(0, 1, 0))
    assert np.array_equal(np.asarray(example.image() if callable(example.image) else example.image), wanted)
    for i in range(len(captions.listing.entries)):
        captions.read(i)
    missing = {fault.rpartition("/")[2] for fault in captions.listing.faults}  # no file, told by its line
    unusable = {image for image, fault in captions._faults.items() if fault}
    assert missing | unusable == bad and captions.n_skipped == len(bad)

    assert np.array_equal(np.asarray(opened_image(tmp_path / "good.png")), wanted)
    for name in bad:
        with pytest.raises(UsageError, match=r"cannot be read as an image|there is no file") as caught:
            opened_image(tmp_path / name)
        assert name in str(caught.value)


def _tensor(image):
    import torch

    return torch.from_numpy(np.asarray(image).copy())


def test_the_first_frame_stands_for_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_the_first_picture_stands_for_those_that_a_camera_joined(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (16, 24, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8
    more = [Image.new("RGB", (24, 16), "blue")]
    Image.fromarray(noise).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=more, exif=exif)
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.format == "MPO"
        wanted = np.rot90(np.asarray(file.convert("RGB")))
    assert np.array_equal(pixels(tmp_path / "a.jpg"), wanted)


def test_reading_needs_no_torch(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    code = (
        f"import sys; from gradprobe.data.reader import read_picture; read_picture({str(tmp_path / 'a.png')!r});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.real
def test_real_photographs_are_bit_by_bit_what_they_were(assets):
    files = sorted((assets / "imagenet-sample").rglob("*.*"))[::8] + sorted((assets / "imagenette").rglob("*.*"))[::16]
    compared = 0
    for path in files:
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            with Image.open(io.BytesIO(path.read_bytes())) as file:
                assert file.convert("RGB").tobytes() == read_picture(path).tobytes(), path
            compared += 1
    assert compared > 100

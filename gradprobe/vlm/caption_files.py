"""Entries of a file or folder of captions, and the faults of its other lines."""

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha256
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from PIL.Image import Image

from gradprobe.data.fingerprints import image_files
from gradprobe.data.hashes import file_hashes
from gradprobe.data.reader import read_picture
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import open_regular
from gradprobe.vlm.placeholders import Placeholders

LINE = '{"image": "photos/1.jpg", "caption": "a dog on a beach"}'
LISTS = ("captions.jsonl", "metadata.jsonl")  # of a folder; the second is what Hugging Face's image folders have
LISTED = 5  # faults that are listed one by one; the others are counted
_IMAGE, _CAPTION, _OTHERS = ("image", "file_name"), ("caption", "text"), ("prompt", "question", "answer")


@dataclass(frozen=True)
class Entry:
    """Caption and the image that it describes.

    Attributes:
        image: Path relative to the root, with ``/``.
        caption: Its text.
        prompt: Text before the caption; None: the usual one.
        question: About the image; None: none.
        answer: To the question.
    """

    image: str
    caption: str
    prompt: str | None = None
    question: str | None = None
    answer: str | None = None

    @property
    def id(self) -> int:
        """63-bit hash of all fields: the same on any machine, in any order of lines.

        Example:
            >>> Entry("a.jpg", "a dog").id == Entry("a.jpg", "a dog").id != Entry("a.jpg", "a cat").id
            True
        """
        return hash_of(self.image, self.caption, *(x or "" for x in (self.prompt, self.question, self.answer)))


@dataclass(frozen=True)
class Listing:
    """Captions and their images, by default files below a folder.

    Attributes:
        root: Folder that the images' paths are relative to.
        entries: The usable ones, each once, in the order of the file.
        faults: Faults of the others, by line or file.
    """

    root: Path
    entries: tuple[Entry, ...]
    faults: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:`` and 16 hex digits of the hash of entries and contents of images; reads all images once."""
        contents = self.contents(sorted({entry.image for entry in self.entries}))
        digest = sha256(b"gradprobe captions 2\n")
        for entry in self.entries:
            line = f"{entry!r}{contents[entry.image] or 'unreadable'}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return f"sha256:{digest.hexdigest()[:16]}"

    def contents(self, images: Sequence[str]) -> dict[str, str | None]:
        """Return the SHA-256 of each image; None for one that cannot be read."""
        return dict(zip(images, file_hashes(self.root, images), strict=True))

    def read(self, image: str) -> Image:
        """Return an image.

        Raises:
            PictureError: It cannot be used.
        """
        return read_picture(self.root / image)

    def place_of(self, image: str) -> str:
        """Return the place of an image in messages."""
        return image

    def rank_of(self, image: str) -> Any:
        """Return the sorting key of an image in messages."""
        return image


def hash_of(*parts: str) -> int:
    """Return 63 bits of a hash of some texts."""
    joined = "\0".join(parts).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "big") >> 1


def first_faults(faults: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first few faults and the number of the others.

    Example:
        >>> first_faults(("line 2: no JSON", "line 4: no caption"))
        ('line 2: no JSON', 'line 4: no caption')
    """
    more = len(faults) - LISTED
    return faults if more <= 0 else (*faults[:LISTED], f"and {more} more")


def list_captions(
    path: str | Path, image_root: str | Path | None = None, placeholders: Placeholders | None = None
) -> Listing:
    """List a ``captions.jsonl``, a folder that holds one, or a folder of images beside ``.txt`` files of their names.

    A line that is no caption, a missing image, a repeated caption and texts with placeholders of images are passed over
    and listed as faults. No image is opened yet. Paths may be absolute, or lead out of the root.

    Args:
        path: The file or folder.
        image_root: Folder that the paths in a file are relative to; None: the file's own.
        placeholders: Those of the model; None: texts are not checked for them.

    Raises:
        UsageError: No such file or folder, or no usable caption in it; shows what a line looks like.
        GradprobeError: The file cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"--data {path} does not exist; give a file of lines such as {LINE}, or a folder")
    file = next((path / name for name in LISTS if (path / name).is_file()), None) if path.is_dir() else path
    if file is None and image_root is not None:
        raise UsageError(f"--image-root goes with a file of captions, and {path} is a folder without {LISTS[0]}")
    root = Path(image_root) if image_root is not None else path if file is None else file.parent
    candidates, faults = _beside(path) if file is None else _lines(file)
    entries: dict[Entry, str] = {}
    for where, entry in candidates:
        fault = "" if placeholders is None else misplaced(entry, placeholders)
        if fault:
            faults.append((where, fault))
        elif not _is_file(root / entry.image):
            faults.append((where, f"no image {root / entry.image}"))
        elif entry in entries:
            faults.append((where, f"the same image and caption as {entries[entry]}"))
        else:
            entries[entry] = where
    wrong = tuple(f"{where}: {fault}" for where, fault in sorted(faults, key=lambda each: _place(each[0])))
    if not entries:
        why = f" ({'; '.join(first_faults(wrong))})" if wrong else ""
        raise UsageError(
            f"--data {path} has no caption that can be used{why}; a line looks like {LINE}, its path relative to "
            f"{root if file else 'the file'}; or give a folder of images with a .txt of the same name beside each"
        )
    return Listing(root, tuple(entries), wrong)


def _lines(file: Path) -> tuple[list[tuple[str, Entry]], list[tuple[str, str]]]:
    """Return the entries of a file of JSON lines, and the faults of its other lines, each with its line."""
    entries, faults = [], []
    try:
        with open_regular(file) as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise UsageError(f"--data {file} is UTF-16; save it as UTF-8")
                text = line.removeprefix(codecs.BOM_UTF8).strip()  # Windows editors begin a file with it
                if not text:
                    continue
                entry = _entry(text)
                if isinstance(entry, str):
                    faults.append((f"line {number}", entry))
                else:
                    entries.append((f"line {number}", entry))
    except OSError as error:
        raise GradprobeError(f"--data {file} cannot be read: {error.strerror or error}") from None
    return entries, faults


def _entry(line: bytes) -> Entry | str:
    """Return the entry of a line, or its fault."""
    try:
        record: Any = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
    except _TwiceError as error:
        return f"{error} twice"
    except UnicodeDecodeError:
        return "no UTF-8 text"
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(record, dict):
        return "no JSON object"
    image = next((record[key] for key in _IMAGE if key in record), None)
    caption = next((record[key] for key in _CAPTION if key in record), None)
    if not isinstance(image, str) or not image.strip() or "\0" in image:
        return "no image"
    if not isinstance(caption, str) or not caption.strip():
        return "no caption"
    others = [record.get(key) for key in _OTHERS]
    for key, value in zip(("caption", *_OTHERS), (caption, *others), strict=True):
        if value is not None and not isinstance(value, str):
            return f"{key} is no text"
        if value and any("\ud800" <= letter <= "\udfff" for letter in value):  # half of a pair: no letter
            return f"{key} is no proper text"
    others = [None if x is None else x.strip() or None for x in others]
    return Entry(PurePosixPath(image.strip()).as_posix(), caption.strip(), *others)  # ./a.jpg is a.jpg


class _TwiceError(Exception):
    """JSON object that has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise _TwiceError(key)
        record[key] = value
    return record


def _beside(folder: Path) -> tuple[list[tuple[str, Entry]], list[tuple[str, str]]]:
    """Return the entries of a folder of images and texts of the same names, and the faults of its other images."""
    entries, faults = [], []
    for image in image_files(folder):
        text = (folder / image).with_suffix(".txt")
        try:
            with open_regular(text) as file:
                caption = file.read().removeprefix(codecs.BOM_UTF8).decode("utf-8").strip()
        except FileNotFoundError:
            faults.append((image, f"no {text.name} beside it"))
        except UnicodeDecodeError:
            faults.append((image, f"{text.name} is no UTF-8 text"))
        except OSError as error:
            faults.append((image, f"{text.name} cannot be read ({error.strerror or error})"))
        else:
            if caption:
                entries.append((image, Entry(image, caption)))
            else:
                faults.append((image, f"{text.name} is empty"))
    return entries, faults


def misplaced(entry: Entry, placeholders: Placeholders) -> str:
    """Name a text of an entry that has the model's placeholders where it must not; empty: none."""
    for name, text in (("caption", entry.caption), ("answer", entry.answer)):
        if text is not None and (fault := placeholders.fault_of_text(text)):
            return f"the {name} {fault}"
    for name, text in (("prompt", entry.prompt), ("question", entry.question)):
        if text is not None and (fault := placeholders.fault_of_prompt(text)):
            return f"the {name} {fault}"
    return ""


def _is_file(file: Path) -> bool:
    try:
        return S_ISREG(file.stat().st_mode)
    except (OSError, ValueError):
        return False


def _place(where: str) -> tuple[int, str]:
    number = where.removeprefix("line ")
    return (int(number), "") if number.isdigit() else (0, where)

"""Captions in the data sets of Hugging Face's ``datasets``: a folder of ``save_to_disk``, or a data set of the hub."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL.Image import Image

from gradprobe.data.reader import PictureError, read_picture
from gradprobe.errors import GradprobeError, UsageError, brief, nearest
from gradprobe.files import open_regular
from gradprobe.vlm.caption_files import Entry, Listing, first_faults, list_captions, misplaced
from gradprobe.vlm.placeholders import Placeholders

IMAGES = ("image", "img", "picture", "jpg", "png", "file_name")
CAPTIONS = ("caption", "captions", "text", "texts", "txt")
OTHERS = ("prompt", "question", "answer")
_SAVED = ("state.json", "dataset_dict.json")  # of one data set, and of several splits
_HUB = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<split>[^/]+))?")
_FILES = (".jsonl", ".json", ".txt", ".csv", ".parquet", ".arrow")  # endings of what was meant to be a file here
_TEXT = ("string", "large_string")


@dataclass(frozen=True)
class Table:
    """Data set with images and captions.

    Attributes:
        name: Folder or hub id, with the split that was asked for.
        rows: The ``datasets.Dataset``.
        folder: Folder that it was read from; None: the hub.
    """

    name: str
    rows: Any
    folder: Path | None = None


@dataclass(frozen=True)
class Columns:
    """Columns of a table.

    Attributes:
        image: Column of the images: encoded ones, or paths of files.
        caption: Column of the captions: a text, or several.
        others: Those of prompts, questions and answers that are there.
    """

    image: str
    caption: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableListing(Listing):
    """Captions of a table; images are named by the SHA-256 of their content, wherever the table lies.

    Attributes:
        rows: The table, its images encoded.
        column: Column of the images.
        index: Row of each image.
    """

    rows: Any = None
    column: str = ""
    index: Mapping[str, int] | None = None

    def contents(self, images: Sequence[str]) -> dict[str, str | None]:
        """Return the SHA-256 of each image."""
        return {image: image for image in images}

    def read(self, image: str) -> Image:
        """Return an image.

        Raises:
            PictureError: It cannot be used.
        """
        try:
            content = _content(self.rows[self._row(image)][self.column], self.root)
        except OSError as error:
            raise PictureError(f"cannot be opened ({error.strerror or error})") from None
        return read_picture(BytesIO(content or b""))

    def place_of(self, image: str) -> str:
        """Return the row of an image, counted from 0 as ``datasets`` does."""
        return f"row {self._row(image)}"

    def rank_of(self, image: str) -> Any:
        """Return the row of an image."""
        return self._row(image)

    def _row(self, image: str) -> int:
        assert self.index is not None
        return self.index[image]


def list_any(
    path: str | Path,
    image_root: str | Path | None = None,
    placeholders: Placeholders | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Listing:
    """List captions in a file or folder, as `list_captions`, or in a data set.

    Args:
        path: File, folder, or name of a data set: see `table_of`.
        image_root: Folder that the paths of images are relative to.
        placeholders: Those of the model; None: texts are not checked for them.
        image_column: Column of the images; None: it is found by type and name.
        caption_column: Column of the captions; None: likewise.

    Raises:
        UsageError: There are no such data, or no usable caption in them.
        GradprobeError: They cannot be read.
    """
    table = table_of(path)
    if table is not None:
        return list_table(table, columns_of(table, image_column, caption_column), image_root, placeholders)
    if image_column is not None or caption_column is not None:
        option = f"--image-column {image_column}" if image_column is not None else f"--caption-column {caption_column}"
        raise UsageError(f"{option} goes with a data set of the library datasets, and {path} is none")
    return list_captions(path, image_root, placeholders)


def check_data(
    path: str | Path,
    image_root: str | Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> None:
    """Refuse data that are certain to be of no use, before a model is opened; images of a data set are not read yet.

    Args:
        path: As for `list_any`.
        image_root: Likewise.
        image_column: Likewise.
        caption_column: Likewise.

    Raises:
        UsageError: There are no such data or columns, or no usable caption in a file or folder.
        GradprobeError: They cannot be read.
    """
    table = table_of(path)
    if table is None:
        list_any(path, image_root, None, image_column, caption_column)
    else:
        columns_of(table, image_column, caption_column)


def table_of(path: str | Path) -> Table | None:
    """Open a data set by its name; None for any other file, folder, or text.

    Args:
        path: Folder that ``save_to_disk`` wrote, ``FOLDER:SPLIT`` of one with several splits, or a hub id
            ``user/name`` or ``user/name:split``.

    Raises:
        UsageError: It has several splits and none is named, or not the one that is.
        GradprobeError: It cannot be read or fetched, or ``datasets`` is missing.
    """
    text = str(path)
    before, _, after = text.rpartition(":")
    for folder, split in ((Path(text), None), (Path(before), after)) if before else ((Path(text), None),):
        if any((folder / name).is_file() for name in _SAVED):
            return Table(text, _split_of(_from_disk(folder), split, str(folder)), folder)
    named = _HUB.fullmatch(text)
    if named is None or Path(text).exists() or Path(before or text).exists() or text.lower().endswith(_FILES):
        return None
    return Table(text, _split_of(_from_hub(named["name"], named["split"], text), None, named["name"]))


def columns_of(table: Table, image: str | None = None, caption: str | None = None) -> Columns:
    """Find the columns of images and captions, by name if it is given, else by type and usual names.

    Raises:
        UsageError: There is no such column, or it is not clear which one is meant.
    """
    features = table.rows.features
    for option, name in (("--image-column", image), ("--caption-column", caption)):
        if name is not None and name not in features:
            raise UsageError(f"{option} {name} is not in --data {table.name}; {nearest(name, tuple(features))}")
    if image is None:
        pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
        image = _chosen(pictures, IMAGES) or _chosen([name for name in IMAGES if name in features], IMAGES)
    if caption is None:
        texts = [n for n, feature in features.items() if n not in (image, *OTHERS) and _is_text(feature)]
        caption = _chosen(texts, CAPTIONS)
    if image is None or caption is None:
        lacking = "images" if image is None else "captions"
        shown = ", ".join(f"{name} ({_type_of(feature)})" for name, feature in features.items())
        option = "--image-column" if image is None else "--caption-column"
        raise UsageError(
            f"--data {table.name} has no column that is certain to hold {lacking}; name it with {option}: {shown}"
        )
    if not _is_text(features[caption]):
        wrong = _type_of(features[caption])
        raise UsageError(f"--caption-column {caption} holds no text ({wrong}); give a column of texts or lists of them")
    return Columns(image, caption, tuple(name for name in OTHERS if name in features and _is_text(features[name])))


def list_table(
    table: Table, columns: Columns, image_root: str | Path | None = None, placeholders: Placeholders | None = None
) -> TableListing:
    """List the captions of a table; all images are read once, for their hashes.

    Args:
        table: Result of `table_of`.
        columns: Result of `columns_of`.
        image_root: Folder that paths of images are relative to; None: the table's own.
        placeholders: Those of the model; None: texts are not checked for them.

    Raises:
        UsageError: No usable caption in it, or paths of images that are relative to nothing.
    """
    rows = table.rows.with_format(None).select_columns([columns.image, columns.caption, *columns.others])
    feature = rows.features[columns.image]
    if type(feature).__name__ == "Image":
        rows = rows.cast_column(columns.image, type(feature)(decode=False))
    elif _is_text(feature) and table.folder is None and image_root is None:
        raise UsageError(
            f"--data {table.name} has paths of images in {columns.image}; say of which folder: --image-root"
        )
    root = Path(image_root) if image_root is not None else table.folder or Path(table.name)
    entries: dict[Entry, int] = {}
    index: dict[str, int] = {}
    faults: list[str] = []
    for number, row in enumerate(rows):
        try:
            content = _content(row[columns.image], root)
        except (OSError, ValueError) as error:
            faults.append(f"row {number}: image cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        if content is None:
            faults.append(f"row {number}: no image")
            continue
        image = sha256(content).hexdigest()
        others = {name: (row[name] or "").strip() or None for name in columns.others}
        for caption in _captions(row[columns.caption]):
            entry = Entry(image, caption, **others)
            fault = "" if placeholders is None else misplaced(entry, placeholders)
            if not caption:
                fault = "no caption"
            elif entry in entries:
                fault = f"the same image and caption as row {entries[entry]}"
            if fault:
                faults.append(f"row {number}: {fault}")
            else:
                entries[entry] = number
                index.setdefault(image, number)
    if not entries:
        why = f" ({'; '.join(first_faults(tuple(faults)))})" if faults else ""
        raise UsageError(
            f"--data {table.name} has no caption that can be used in its columns {columns.image} and "
            f"{columns.caption}{why}; name others with --image-column and --caption-column"
        )
    return TableListing(root, tuple(entries), tuple(faults), rows, columns.image, index)


def _from_disk(folder: Path) -> Any:
    try:
        return _datasets(str(folder)).load_from_disk(str(folder))
    except GradprobeError:
        raise
    except Exception as error:  # pyarrow and datasets raise many kinds on damaged files
        raise GradprobeError(
            f"--data {folder} cannot be read: {brief(error)}; save it again with save_to_disk"
        ) from None


def _from_hub(name: str, split: str | None, text: str) -> Any:
    datasets = _datasets(text)
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # of the network, the hub, and each format of files
        reason = brief(error)
        remedy = "is the name right, is there a network, and are you logged in (hf auth login) if it is private?"
        if "onfig name is missing" in str(error):
            remedy = f'choose one: datasets.load_dataset("{name}", "CONFIG").save_to_disk("FOLDER"), then --data FOLDER'
        elif "split" in str(error).lower():
            remedy = f"name another split: --data {name}:SPLIT"
        raise GradprobeError(
            f"--data {text} is no file or folder here, nor data of the hub: {reason}; {remedy}"
        ) from None


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise GradprobeError(
            f'--data {name} is read by the library datasets; type: pip install "gradprobe[datasets]", or give a '
            "captions.jsonl or a folder of images that is here"
        ) from None
    return datasets


def _split_of(found: Any, split: str | None, name: str) -> Any:
    """Return a data set, or one of the splits of several: the one that is named, the only one, or ``train``."""
    if not isinstance(found, dict):
        if split is not None:
            raise UsageError(f"--data {name} has no splits; leave out :{split}")
        return found
    splits = tuple(found)
    chosen = split or (splits[0] if len(splits) == 1 else "train")
    if chosen not in found:
        reason = f"has no split {chosen}" if split else "has several splits"
        ways = ", ".join(f"--data {name}:{each}" for each in splits)
        raise UsageError(f"--data {name} {reason}; give one of {ways}")
    return found[chosen]


def _content(value: Any, root: Path) -> bytes | None:
    """Return the encoded image of a cell; None if it is empty.

    Raises:
        OSError: Its file cannot be read.
    """
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    content = value.get("bytes") if isinstance(value, dict) else value if isinstance(value, bytes) else None
    if content is None and path:
        with open_regular(root / path) as file:
            content = file.read()
    return content or None


def _captions(value: Any) -> Iterator[str]:
    """Yield the captions of a cell, each once; an empty one if there is none."""
    texts = [text.strip() for text in (value if isinstance(value, list) else [value]) if text]
    yield from dict.fromkeys(texts) if any(texts) else [""]


def _chosen(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the only name, or the first usual one; None if neither is there."""
    return names[0] if len(names) == 1 else next((name for name in usual if name in names), None)


def _is_text(feature: Any) -> bool:
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in _TEXT


def _type_of(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)

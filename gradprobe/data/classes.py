"""Labels from class folders: wnids and numbers are labels by themselves, other names need an order that is certain."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from timm.data import ImageNetInfo

from gradprobe.errors import UsageError

ORDERS = ("text", "natural")
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_KL = "use --loss kl"


def labels_of(
    root: Path, files: Sequence[str], n_classes: int | None, class_order: str | None
) -> tuple[tuple[int, ...] | None, str]:
    """Return the label of each image of a folder, or None with the reason and the remedy.

    Args:
        root: the folder, where class folders without an image are looked for.
        files: relative paths with ``/``; the first part names the class.
        n_classes: classes of the model; None: not known.
        class_order: ``text`` (torchvision's order) or ``natural`` (timm's: numbers by value, case ignored) numbers the
            folders in this order, but for ImageNet's wnids; None: numbers are labels too, and other names are numbered
            where both orders agree.

    Raises:
        UsageError: there is no such order.
    """
    if class_order is not None and class_order not in ORDERS:
        raise UsageError(f"--class-order {class_order} is not possible; give --class-order text or natural")
    flat = sum("/" not in file for file in files)
    if flat:
        beside = " beside the sub-folders" if flat < len(files) else ", not in a sub-folder per class"
        return None, f"images lie{beside}; {_KL}"
    names = [file.split("/")[0] for file in files]
    folders = sorted(set(names))
    table = _table(root, folders, n_classes, class_order)
    return (None, table) if isinstance(table, str) else (tuple(table[name] for name in names), "")


def natural_key(name: str) -> list[str | int]:
    """Return the sort key of timm's class order: numbers by value, case ignored.

    Example:
        >>> sorted(["b10", "b2", "A1"], key=natural_key)
        ['A1', 'b2', 'b10']
    """
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name.lower()))]


def _table(root: Path, folders: Sequence[str], n_classes: int | None, class_order: str | None) -> dict[str, int] | str:
    """Return the label of each folder, or the reason why it is not certain and the remedy."""
    wnids = {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    strangers = [name for name in folders if name not in wnids]
    if not strangers and n_classes in (None, len(wnids)):
        return wnids
    if class_order is not None:
        return _ordered(folders, class_order, n_classes)
    if all(name.isascii() and name.isdigit() for name in folders):
        return _numbered(folders, n_classes)
    if {name.lower() for name in folders} <= _PARTS:
        return f"{', '.join(folders)} is part of a data set, no class (did you mean {folders[0]} inside it?); {_KL}"
    if len(folders) == n_classes and len(strangers) in (0, len(folders)):
        return _ordered(folders, None, n_classes)
    empty = _without_images(root, folders)
    if empty and n_classes == len(folders) + len(empty):
        what = f"{len(empty)} of {n_classes} class folders hold no image ({empty[0]} for one)"
        return f"{what}, which leaves the classes uncertain: name the folders by number (0, 1, ...), or {_KL}"
    if strangers:
        known = n_classes not in (None, len(folders))
        count = f" and the model has {n_classes} classes, not {len(folders)}" if known else ""
        return f"the folder {strangers[0]} is no ImageNet-1k wnid{count}; {_KL}"
    return f"the folders are {len(folders)} wnids and the model has {n_classes} classes; {_KL}"


def _numbered(folders: Sequence[str], n_classes: int | None) -> dict[str, int] | str:
    """Return the numbers that name the folders, which are the labels, or the reason why they cannot be."""
    table = {name: int(name) for name in folders}
    first: dict[int, str] = {}
    for name, label in table.items():
        if label in first:
            return f"the folders {first[label]} and {name} are the same class: put their images together, or {_KL}"
        first[label] = name
    top = max(first)
    if n_classes is None or top < n_classes:
        return table
    what = f"the folder {first[top]} is beyond the model's {n_classes} classes, 0..{n_classes - 1}"
    if len(folders) == n_classes:
        return f"{what}: rename the folders, give --class-order natural to number them in their order, or {_KL}"
    return f"{what}: rename the folders, or {_KL}"


def _ordered(folders: Sequence[str], class_order: str | None, n_classes: int | None) -> dict[str, int] | str:
    """Return the place of each folder in an order; without one, where text and natural order agree."""
    if n_classes not in (None, len(folders)):
        return f"there are {len(folders)} class folders and the model has {n_classes} classes; {_KL}"
    text, natural = sorted(folders), sorted(folders, key=natural_key)
    twins = [(a, b) for a, b in pairwise(natural) if natural_key(a) == natural_key(b)]
    if class_order != "text" and twins:
        what = f"the class folders {twins[0][0]} and {twins[0][1]} have no order but that of their text"
        return f"{what}: give --class-order text, or {_KL}"
    if class_order is None and text != natural:
        at = next(i for i, pair in enumerate(zip(text, natural, strict=True)) if pair[0] != pair[1])
        what = f"class {at} is {text[at]} in the order of text (torchvision) and {natural[at]} in natural order (timm)"
        return f"{what}: say which by --class-order text or --class-order natural, or {_KL}"
    return {name: i for i, name in enumerate(natural if class_order == "natural" else text)}


def _without_images(root: Path, folders: Sequence[str]) -> list[str]:
    """Return the visible sub-folders that are not among those with images."""
    known = set(folders)
    there = (path.name for path in root.iterdir() if path.is_dir())
    return sorted(name for name in there if not name.startswith(".") and name not in known)

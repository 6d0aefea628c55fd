"""Labels of class folders: wnids and numbers are labels already, other names are numbered if their order is certain."""

import re
from collections.abc import Mapping, Sequence
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
        root: Folder of images, searched for class folders without an image.
        files: Relative paths with ``/``; the first part is the class.
        n_classes: Number of classes of the model, None if unknown.
        class_order: Order in which folders are numbered unless they are ImageNet's wnids: ``text`` (torchvision's) or
            ``natural`` (timm's: numbers by value, case ignored). None: numbers are labels too, and other names are
            numbered where both orders agree.

    Raises:
        UsageError: The order is unknown.
    """
    if class_order is not None and class_order not in ORDERS:
        raise UsageError(f"--class-order {class_order} is not possible; give --class-order text or natural")
    flat = sum("/" not in file for file in files)
    if flat:
        place = " beside the sub-folders" if flat < len(files) else ", not in a sub-folder per class"
        return None, f"images lie{place}; {_KL}"
    names = [file.split("/")[0] for file in files]
    folders = sorted(set(names))
    table = _table(root, folders, n_classes, class_order)
    return (None, table) if isinstance(table, str) else (tuple(table[name] for name in names), "")


def check_same_classes(tested: Mapping[str, int], trained: Mapping[str, int]) -> None:
    """Refuse two folders of which each gives a label to another class, by the labels of their sub-folders.

    Raises:
        UsageError: A label belongs to two names, and these are not one number.
    """
    names = {label: name for name, label in tested.items()}
    for name, label in trained.items():
        other = names.get(label, name)
        if other != name and not (other.isdecimal() and name.isdecimal() and int(other) == int(name)):
            raise UsageError(
                f"class {label} is {other} in --data and {name} in --train-data; give both the same class folders, or "
                f"{_KL}"
            )


def natural_key(name: str) -> list[str | int]:
    """Return the sort key of timm's class order: numbers by value, case ignored.

    Example:
        >>> sorted(["b10", "b2", "A1"], key=natural_key)
        ['A1', 'b2', 'b10']
    """
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name.lower()))]


def _table(root: Path, folders: Sequence[str], n_classes: int | None, class_order: str | None) -> dict[str, int] | str:
    """Return the label of each folder, or the reason why the labels are uncertain, with a remedy."""
    wnids = {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    other = [name for name in folders if name not in wnids]
    if not other and n_classes in (None, len(wnids)):
        return wnids
    if class_order is not None:
        return _ordered(folders, class_order, n_classes)
    if all(name.isascii() and name.isdigit() for name in folders):
        return _numbered(folders, n_classes)
    if {name.lower() for name in folders} <= _PARTS:
        return f"{', '.join(folders)} is part of a data set, no class (did you mean {folders[0]} inside it?); {_KL}"
    if len(folders) == n_classes and len(other) in (0, len(folders)):
        return _ordered(folders, None, n_classes)
    empty = _without_images(root, folders)
    if empty and n_classes == len(folders) + len(empty):
        problem = f"{len(empty)} of {n_classes} class folders hold no image ({empty[0]} for one)"
        return f"{problem}, which leaves the classes uncertain: name the folders by number (0, 1, ...), or {_KL}"
    if other:
        mismatch = n_classes not in (None, len(folders))
        count = f" and the model has {n_classes} classes, not {len(folders)}" if mismatch else ""
        return f"the folder {other[0]} is no ImageNet-1k wnid{count}; {_KL}"
    return f"the folders are {len(folders)} wnids and the model has {n_classes} classes; {_KL}"


def _numbered(folders: Sequence[str], n_classes: int | None) -> dict[str, int] | str:
    """Return the numbers in the folders' names as labels, or the reason why they cannot be labels."""
    table = {name: int(name) for name in folders}
    first: dict[int, str] = {}
    for name, label in table.items():
        if label in first:
            return f"the folders {first[label]} and {name} are the same class: put their images together, or {_KL}"
        first[label] = name
    top = max(first)
    if n_classes is None or top < n_classes:
        return table
    problem = f"the folder {first[top]} is beyond the model's {n_classes} classes, 0..{n_classes - 1}"
    if len(folders) == n_classes:
        return f"{problem}: rename the folders, give --class-order natural to number them in their order, or {_KL}"
    return f"{problem}: rename the folders, or {_KL}"


def _ordered(folders: Sequence[str], class_order: str | None, n_classes: int | None) -> dict[str, int] | str:
    """Return the position of each folder in an order; without an order, text and natural order have to agree."""
    if n_classes not in (None, len(folders)):
        return f"there are {len(folders)} class folders and the model has {n_classes} classes; {_KL}"
    text, natural = sorted(folders), sorted(folders, key=natural_key)
    twins = [(a, b) for a, b in pairwise(natural) if natural_key(a) == natural_key(b)]
    if class_order != "text" and twins:
        problem = f"the class folders {twins[0][0]} and {twins[0][1]} are equal in natural order"
        return f"{problem}: give --class-order text, or {_KL}"
    if class_order is None and text != natural:
        at = next(i for i, pair in enumerate(zip(text, natural, strict=True)) if pair[0] != pair[1])
        problem = f"class {at} is {text[at]} in text order (torchvision) and {natural[at]} in natural order (timm)"
        return f"{problem}: choose with --class-order text or --class-order natural, or {_KL}"
    return {name: i for i, name in enumerate(natural if class_order == "natural" else text)}


def _without_images(root: Path, folders: Sequence[str]) -> list[str]:
    """Return the visible sub-folders without images."""
    with_images = set(folders)
    names = (path.name for path in root.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name not in with_images)

"""Class folders as labels: numbers and wnids are labels, other names are numbered only where the order is certain."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from timm.utils.misc import natural_key as timm_key

from gradprobe.data.classes import natural_key
from gradprobe.data.images import ImageFolder
from gradprobe.errors import UsageError

WNIDS = ImageNetInfo("imagenet-1k").label_names()


def open_folders(root: Path, names, n_classes=None, class_order=None) -> ImageFolder:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name / "x.png")
    return ImageFolder.open(root, lambda image: torch.zeros(3, 1, 1), n_classes, class_order)


def labels(folder: ImageFolder) -> dict[str, int]:
    folder.need_labels()
    return {file.split("/")[0]: label for file, label in zip(folder.files, folder.labels, strict=True)}


def reason(folder: ImageFolder) -> str:
    assert folder.labels is None
    with pytest.raises(UsageError, match="--loss ce needs labels") as caught:
        folder.need_labels()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_are_the_labels(tmp_path):
    everyone = labels(open_folders(tmp_path / "all", map(str, range(1000)), 1000))
    assert everyone == {str(i): i for i in range(1000)}


@pytest.mark.parametrize(
    "names", [("0", "2", "10"), ("0000", "0002", "0010"), ("7",), ("1", "2", "3")], ids=lambda names: "-".join(names)
)
@pytest.mark.parametrize("n_classes", [None, 11, 1000])
def test_some_of_the_numbers_and_padded_ones_are_labels_too(tmp_path, names, n_classes):
    assert labels(open_folders(tmp_path, names, n_classes)) == {name: int(name) for name in names}


def test_a_missing_number_shifts_no_label(tmp_path):
    (tmp_path / "1").mkdir()  # a class without images
    assert labels(open_folders(tmp_path, "0234", 5)) == {"0": 0, "2": 2, "3": 3, "4": 4}


def test_numbers_from_one_on_are_refused_until_an_order_is_chosen(tmp_path):
    names = [str(i) for i in range(1, 11)]
    message = reason(open_folders(tmp_path, names, 10))
    assert "10 is beyond the model's 10 classes, 0..9" in message and "--class-order natural" in message
    assert labels(open_folders(tmp_path, names, 10, "natural")) == {name: i for i, name in enumerate(names)}
    assert labels(open_folders(tmp_path, names, 10, "text")) == {name: i for i, name in enumerate(sorted(names))}


def test_numbers_that_name_no_class_or_one_class_twice_are_refused(tmp_path):
    assert "1000 is beyond the model's 1000 classes" in reason(open_folders(tmp_path / "beyond", ("3", "1000"), 1000))
    assert "01 and 1 are the same class" in reason(open_folders(tmp_path / "twice", ("1", "01"), 10))


@pytest.mark.parametrize(
    "names", [("class_1", "class_2", "class_10"), ("ant", "Bee", "cat"), ("0", "1", "10", "2b"), ("a-9", "a-10")]
)
def test_orders_that_differ_are_refused_until_one_is_chosen(tmp_path, names):
    message = reason(open_folders(tmp_path, names, len(names)))
    assert "torchvision" in message and "timm" in message and "--class-order text or --class-order natural" in message
    text = labels(open_folders(tmp_path, names, len(names), "text"))
    natural = labels(open_folders(tmp_path, names, len(names), "natural"))
    assert text == {name: i for i, name in enumerate(sorted(names))}
    assert natural == {name: i for i, name in enumerate(sorted(names, key=timm_key))} != text


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("class_01", "class_02", "class_10"), ("Ant", "Bee")])
def test_orders_that_agree_need_no_choice(tmp_path, names):
    for class_order in (None, "text", "natural"):
        folder = open_folders(tmp_path, names, len(names), class_order)
        assert labels(folder) == {name: i for i, name in enumerate(sorted(names))}


@pytest.mark.parametrize("names", [("cat", "Cat"), ("a1", "a01", "b")])
def test_folders_that_are_equal_in_natural_order_need_that_of_text(tmp_path, names):
    (tmp_path / names[0]).mkdir()
    if (tmp_path / names[1]).exists():
        pytest.skip("this file system does not tell the two apart")
    for class_order in (None, "natural"):
        assert "give --class-order text" in reason(open_folders(tmp_path, names, len(names), class_order))
    text = {name: i for i, name in enumerate(sorted(names))}
    assert labels(open_folders(tmp_path, names, len(names), "text")) == text


def test_a_class_without_images_leaves_the_others_uncertain(tmp_path):
    (tmp_path / "bee").mkdir(parents=True)
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    assert "1 of 3 class folders hold no image (bee for one)" in reason(open_folders(tmp_path, ("ant", "cat"), 3))
    assert labels(open_folders(tmp_path, ("ant", "cat"), 2)) == {"ant": 0, "cat": 1}  # bee is then no class


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "test"), ("val",)])
def test_parts_of_a_data_set_are_no_classes(tmp_path, names):
    message = reason(open_folders(tmp_path, names, len(names)))
    assert f"did you mean {sorted(names)[0]} inside it" in message


def test_wnids_stay_those_of_imagenet(tmp_path):
    names = (WNIDS[999], WNIDS[0], WNIDS[217])
    for class_order in (None, "text", "natural"):
        found = labels(open_folders(tmp_path, names, 1000, class_order))
        assert found == {WNIDS[999]: 999, WNIDS[0]: 0, WNIDS[217]: 217}
    (tmp_path / "n00000001").mkdir()
    message = reason(open_folders(tmp_path, ("n00000001",), 4))  # as many as classes, but one is a stranger
    assert "n00000001 is no ImageNet-1k wnid" in message


def test_files_and_hidden_folders_beside_the_classes_are_no_classes(tmp_path):
    (tmp_path / ".thumbs").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / ".thumbs" / "x.png")
    (tmp_path / "labels.txt").write_text("ant\ncat\n")
    assert labels(open_folders(tmp_path, ("ant", "cat"), 2)) == {"ant": 0, "cat": 1}
    Image.new("RGB", (4, 4)).save(tmp_path / "stray.png")
    assert "images lie beside the sub-folders" in reason(open_folders(tmp_path, (), 2))


def test_another_order_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="--class-order numeric is not possible; give --class-order text or natural"):
        open_folders(tmp_path, ("a",), 1, "numeric")


@pytest.mark.parametrize("name", ["img12", "12", "B2b10", "", "x", "a b"])
def test_the_natural_order_is_that_of_timm(name):
    assert natural_key(name) == timm_key(name)

"""A folder of images: which files, which labels, which order; and what a broken file changes (nothing but itself)."""

import shutil
import subprocess
import sys
from itertools import chain, count
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import ImageNetInfo

from gradprobe.core import Noise
from gradprobe.data.fingerprints import data_fingerprint, image_files, weights_fingerprint
from gradprobe.data.images import ImageFolder, image_id, transform_for
from gradprobe.errors import GradprobeError, UsageError

WNIDS = ImageNetInfo("imagenet-1k").label_names()


def shade(image: Image.Image) -> torch.Tensor:
    """The mean colour, enough to tell the test's images apart."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32).mean((0, 1)))[:, None, None]


def paint(path: Path, value: int = 0, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 9, (40, 48, 3))
    Image.fromarray((value + noise).astype(np.uint8)).save(path, **settings)
    return path


def spoil(folder: Path) -> None:
    """Files that look like images and are none, in five ways."""
    whole = paint(folder / "z_cut.jpg", 99).read_bytes()
    (folder / "z_cut.jpg").write_bytes(whole[: len(whole) // 2])  # its header is fine
    (folder / "b_text.png").write_text("no image")
    (folder / "a_empty.jpeg").write_bytes(b"")
    (folder / "m_gone.jpg").symlink_to(folder / "nowhere.jpg")
    whole = bytearray(paint(folder / "m_flipped.png", 98).read_bytes())
    whole[len(whole) // 2] ^= 255
    (folder / "m_flipped.png").write_bytes(whole)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Twelve flat files, five of them broken."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(7):
        paint(folder / f"g{i}.png", 20 * i)
    spoil(folder)
    return folder


@pytest.fixture
def classes(tmp_path) -> Path:
    for i, name in enumerate(("dog", "cat", "eel")):
        for j in range(3):
            paint(tmp_path / name / f"{j}.png", 30 * i + 5 * j)
    return tmp_path


def test_files_are_found_by_suffix_at_any_depth(tmp_path):
    for name in ("a/x.JPG", "a/deep/er/y.jpeg", "b/z.PNG", "b/u.webp", "b/v.Bmp"):
        paint(tmp_path / name)
    for name in ("a/notes.txt", "a/._x.jpg", ".cache/h.jpg", "b/w.gif.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert image_files(tmp_path) == ["a/deep/er/y.jpeg", "a/x.JPG", "b/u.webp", "b/v.Bmp", "b/z.PNG"]
    folder = ImageFolder.open(tmp_path, shade)
    assert folder.take(range(5), 0, 5).images.shape == (5, 3, 1, 1)
    assert folder.skipped == ()


def test_a_class_folder_may_be_a_link(tmp_path):
    paint(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "class").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert image_files(tmp_path / "data") == ["class/x.png"]


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    cases = {"gone": "does not exist", "file.jpg": "is a file", "empty": "has no image", "texts": "has no image"}
    for name, message in cases.items():
        for ask in (lambda path: ImageFolder.open(path, shade), data_fingerprint):
            with pytest.raises(UsageError, match=message) as caught:
                ask(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_wnids_become_labels_of_imagenet(tmp_path):
    for label in (999, 0, 217):
        paint(tmp_path / WNIDS[label] / "x.png", label % 200)
    for n_classes in (None, 1000):
        folder = ImageFolder.open(tmp_path, shade, n_classes)
        assert dict(zip(folder.files, folder.labels, strict=True)) == {
            f"{WNIDS[label]}/x.png": label for label in (0, 217, 999)
        }
        assert folder.take([2, 0], 0, 2).labels.tolist() == [999, 0]
        folder.need_labels()
    # A model of three classes was trained on just these, in sorted order.
    assert ImageFolder.open(tmp_path, shade, 3).labels == (0, 1, 2)
    with pytest.raises(UsageError, match=r"3 wnids and the model has 10 classes; use --loss kl"):
        ImageFolder.open(tmp_path, shade, 10).need_labels()


def test_other_names_are_labelled_if_the_model_has_as_many_classes(classes):
    assert ImageFolder.open(classes, shade, 3).labels == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    with pytest.raises(
        UsageError, match=r"the folder cat is no ImageNet-1k wnid and the model has 1000 classes, not 3"
    ):
        ImageFolder.open(classes, shade, 1000).need_labels()
    with pytest.raises(UsageError, match=r"cat is no ImageNet-1k wnid; use --loss kl"):
        ImageFolder.open(classes, shade).need_labels()


def test_without_class_folders_there_are_no_labels(mixed, classes):
    folder = ImageFolder.open(mixed, shade, 1)
    assert folder.labels is None
    assert folder.take(folder.order(0), 0, 3).labels is None
    with pytest.raises(UsageError, match=r"images lie, not in a sub-folder per class; use --loss kl"):
        folder.need_labels()
    paint(classes / "stray.png")
    with pytest.raises(UsageError, match="images lie beside the sub-folders"):
        ImageFolder.open(classes, shade, 3).need_labels()


def test_the_folder_above_is_told(tmp_path):
    for part in ("train", "val"):
        paint(tmp_path / part / WNIDS[3] / "x.png")
    with pytest.raises(UsageError, match=r"did you mean train inside it"):
        ImageFolder.open(tmp_path, shade, 1000).need_labels()


def test_broken_files_are_passed_over_and_named(mixed):
    folder = ImageFolder.open(mixed, shade)
    assert folder.skipped == ()
    batch = folder.take(range(12), 0, 7)
    assert (
        folder.skipped
        == ("a_empty.jpeg", "b_text.png", "m_flipped.png", "m_gone.jpg", "z_cut.jpg")[: len(folder.skipped)]
    )
    assert [int(x) for x in batch.images.mean((1, 2, 3)) // 20] == list(range(7))
    assert batch.ids == tuple(image_id(f"g{i}.png") for i in range(7))
    with pytest.raises(
        GradprobeError, match=r"5 of the 12 images .* cannot be read \(a_empty.jpeg for one\)"
    ) as caught:
        folder.take(range(12), 5, 3)
    assert not isinstance(caught.value, UsageError)
    assert len(folder.skipped) == 5


@settings(max_examples=60)
@given(st.data())
def test_batches_depend_on_the_order_alone(mixed, data):
    order = data.draw(st.permutations(range(12)))
    start = data.draw(st.integers(0, 6))
    size = data.draw(st.integers(1, 7 - start))
    fresh, used = ImageFolder.open(mixed, shade), ImageFolder.open(mixed, shade)
    used.take(data.draw(st.permutations(range(12))), 0, data.draw(st.integers(1, 7)))
    good = [i for i in order if fresh.files[i].startswith("g")][start : start + size]
    for folder in (fresh, used):
        assert folder.take(order, start, size).ids == tuple(folder.ids[i] for i in good)


def test_endless_orders_go_round(mixed):
    folder = ImageFolder.open(mixed, shade)
    rounds = list(chain.from_iterable(folder.order(e) for e in range(4)))
    good = [folder.ids[i] for i in rounds if folder.files[i].startswith("g")]
    for start, size in ((20, 6), (0, 9), (7, 7)):
        endless = chain.from_iterable(folder.order(e) for e in count())
        assert folder.take(endless, start, size).ids == tuple(good[start : start + size])


def test_a_folder_without_a_readable_image_is_refused(tmp_path):
    spoil(tmp_path)
    folder = ImageFolder.open(tmp_path, shade)
    for start in (0, 3):
        with pytest.raises(
            GradprobeError, match=r"none of the 5 images in .* can be read, a_empty.jpeg for one"
        ) as caught:
            folder.take(chain.from_iterable(folder.order(e) for e in count()), start, 2)
        assert not isinstance(caught.value, UsageError)
    assert len(folder.skipped) == 5


def test_asking_for_more_than_there_are_is_refused(classes):
    folder = ImageFolder.open(classes, shade)
    folder.need(9)
    with pytest.raises(UsageError, match="has 9 images and 32 are needed; lower --images, --batches or --batch-size"):
        folder.need(32)
    with pytest.raises(UsageError, match="10 images are needed and the order has 9"):
        folder.take(folder.order(0), 4, 6)


def test_an_error_of_the_preprocessing_is_not_a_broken_file(classes):
    def wrong(image):
        raise ZeroDivisionError

    folder = ImageFolder.open(classes, wrong)
    with pytest.raises(ZeroDivisionError):
        folder.take(range(9), 0, 2)
    assert folder.skipped == ()


def test_orders_are_permutations_by_seed(classes):
    folder = ImageFolder.open(classes, shade)
    assert sorted(folder.order(3)) == list(range(9))
    assert folder.order(3).tolist() == folder.order(3).tolist() != folder.order(4).tolist()
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    folder.take(folder.order(5), 0, 4)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_ids_name_the_image_wherever_it_lies(classes, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "there"
    shutil.copytree(classes, moved)
    (moved / "cat" / "0.png").unlink()
    here, there = ImageFolder.open(classes, shade), ImageFolder.open(moved, shade)
    assert set(there.ids) < set(here.ids)
    assert len(set(here.ids)) == 9
    # printf n01440764/a.jpg | b2sum -l 64, halved: another number would change everyone's noise.
    assert image_id("n01440764/a.jpg") == 0x5ABC18A9FC8BD0A2 // 2
    assert image_id("caf\u00e9.jpg") == image_id("cafe\u0301.jpg")
    assert all(0 <= i < 2**63 for i in here.ids)
    Noise(0, here.ids).normal((2,))


def test_fingerprints_see_names_and_contents_only(classes, tmp_path_factory):
    before = data_fingerprint(classes)
    assert before.startswith("sha256:")
    assert len(before) == len("sha256:") + 16
    moved = tmp_path_factory.mktemp("moved") / "there"
    shutil.copytree(classes, moved)
    (moved / "notes.txt").write_text("not an image")
    assert data_fingerprint(moved) == before
    (moved / "cat" / "0.png").rename(moved / "cat" / "9.png")
    renamed = data_fingerprint(moved)
    with (moved / "cat" / "1.png").open("ab") as file:
        file.write(b"x")
    assert len({before, renamed, data_fingerprint(moved)}) == 3


def test_weights_are_named_by_content(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "b.pth").write_bytes(b"weights")
    # printf weights | sha256sum
    wanted = "sha256:9a129038d9a00aed"
    assert (
        weights_fingerprint("x", tmp_path / "a.pth", 0)
        == weights_fingerprint("y", str(tmp_path / "b.pth"), 1)
        == wanted
    )
    assert weights_fingerprint("deit_tiny_patch16_224", None, 0) == "hub:deit_tiny_patch16_224.fb_in1k"
    assert weights_fingerprint("deit_tiny_patch16_224", "none", 7) == "random:7"
    with pytest.raises(UsageError, match="does not exist"):
        weights_fingerprint("x", tmp_path / "gone.pth", 0)


def test_fingerprints_need_no_torch(tmp_path):
    paint(tmp_path / "x.png")
    (tmp_path / "w.pth").write_bytes(b"weights")
    code = (
        "import sys; from gradprobe.data.fingerprints import data_fingerprint as d, weights_fingerprint as w;"
        f"d({str(tmp_path)!r}); w('x', {str(tmp_path / 'w.pth')!r}, 0); w('a.b', None, 0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_preprocessing_is_the_one_of_the_model(tmp_path):
    path = paint(tmp_path / "x.png", 60)
    deit = transform_for(timm.create_model("deit_tiny_patch16_224"))
    with Image.open(path) as file:
        image = file.convert("RGB").resize((500, 300))
    # Resize the shorter side to 248 bicubic, crop the middle 224, normalise: written out.
    small = np.asarray(image.resize((413, 248), Image.Resampling.BICUBIC), dtype=np.float32)
    middle = small[12:236, 94:318] / 255
    wanted = (middle - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.abs(deit(image).numpy().transpose(1, 2, 0) - wanted).max() < 1e-5
    smaller = transform_for(timm.create_model("deit_tiny_patch16_224", img_size=64))
    assert smaller(image).shape == (3, 64, 64)


@pytest.mark.real
def test_wnids_are_in_the_order_of_the_labels(assets):
    assert list(WNIDS) == (assets / "imagenet_wnids.txt").read_text().split()


@pytest.mark.real
def test_real_folders(assets):
    sample = ImageFolder.open(assets / "imagenet-sample", shade, 1000)
    assert len(sample) == len(set(sample.ids)) == 804
    assert all(WNIDS[label] == file.split("/")[0] for file, label in zip(sample.files, sample.labels, strict=True))
    assert len(ImageFolder.open(assets / "imagenette" / "val", shade, 1000)) == 400

"""Scenes on photographs: the digits of the plain scenes, regions apart, red that is no digit, and the task on them."""

import shutil
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gradprobe as gp
from gradprobe.data import photo_scenes as module
from gradprobe.data import photos as photographs_module
from gradprobe.data.image_source import SceneSource
from gradprobe.data.photo_scenes import HALO, data_name, drawing, photo_scenes
from gradprobe.data.photos import BANDS, regions
from gradprobe.data.scenes import GRID, MEAN, PATCH, SIZE, STD, scenes
from gradprobe.embedded.scenes_model import MODELS, PHOTOS, SCENES, WEIGHTS, load_scenes_model
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.seeds import GENERATED, shares_images
from gradprobe.training.train_scenes import evaluate

SPLITS = ("train", "heldout")
TRUTH = ("labels", "digit_of", "colour_of", "red")


def pixels(data):
    return data.images * STD + MEAN


def redness(data):
    """Red of each patch above its other channels, ``(B, 196)``."""
    image = pixels(data)
    red = np.clip(image[:, 0] - np.maximum(image[:, 1], image[:, 2]), 0, None)
    return red.reshape(-1, GRID, PATCH, GRID, PATCH).mean((2, 4)).reshape(len(image), -1)


@pytest.fixture(scope="module", params=SPLITS)
def both(request):
    return scenes(request.param, range(100)), photo_scenes(request.param, range(100))


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_depends_on_its_split_and_id_only(split):
    together, apart = photo_scenes(split, [5, 10**9, 7]), photo_scenes(split, np.array([7, 5]))
    for field in fields(together):
        assert np.array_equal(getattr(together, field.name)[[2, 0]], getattr(apart, field.name))
    assert photo_scenes(split, []).images.shape == (0, 3, SIZE, SIZE)


def test_digits_places_and_truth_are_those_of_the_plain_scene(both):
    plain, rich = both
    for name in TRUTH:
        assert np.array_equal(getattr(plain, name), getattr(rich, name))
    inked = plain.red.reshape(-1, 1, GRID, GRID).repeat(PATCH, 2).repeat(PATCH, 3)[:, 0]
    stroke = inked & (redness_of_pixels(plain) > 0.6)
    # On a stroke the plain scene has nothing but ink; here a little of what is behind it is added. A few pixels are ink
    # of the clutter beside the digit.
    added = np.moveaxis(pixels(rich) - pixels(plain), 1, 3)[stroke]
    assert stroke.sum() > 100 * 100 and ((added > -0.03) & (added < (1 - HALO) * 1.2)).mean() > 0.97
    assert added.mean() > 0.01


def redness_of_pixels(data):
    image = pixels(data)
    return image[:, 0] - np.maximum(image[:, 1], image[:, 2])


def test_backgrounds_are_photographs_and_differ(both):
    plain, rich = both
    assert len({image.tobytes() for image in rich.images}) == len(rich.images)
    assert rich.images.dtype == np.float32 and pixels(rich).min() > -0.1
    dark = (pixels(plain).max(1) < 0.2) & (plain.colour_of == 4).reshape(-1, GRID, GRID).repeat(PATCH, 1).repeat(
        PATCH, 2
    )
    assert np.moveaxis(pixels(rich), 1, 3)[dark].mean() > 0.25 > np.moveaxis(pixels(plain), 1, 3)[dark].mean()


def test_red_does_not_tell_the_digit(both):
    """Patches that belong to no digit and are as red as the typical one of the red digit: many more than K - 9."""
    as_red, found = [], []
    for data in both:
        red = redness(data)
        typical = np.array([np.median(r[m]) for r, m in zip(red, data.red, strict=True)])
        as_red.append(((red >= typical[:, None]) & ~data.red).sum(1).mean())
        reddest = np.argsort(-red, axis=1)[:, :20]
        found.append(np.take_along_axis(data.red, reddest, 1).sum() / data.red.sum())
    assert as_red[1] > 1.5 * as_red[0] and as_red[1] > 20
    assert found[1] < 0.4 < found[0]


def test_the_digits_can_be_read():
    """The model of the plain scenes, which has never seen a photograph or a long red piece, reads most of them."""
    measured = evaluate(load_scenes_model(), 100, PHOTOS, k=20)
    assert measured["unpruned"] > 0.75  # of 200: 0.91
    assert measured["random"] < 0.4


def test_regions_are_large_enough_and_cut_out_of_their_bands(monkeypatch):
    for split, other in (SPLITS, SPLITS[::-1]):
        photo = np.zeros((427, 640, 3), np.uint8)
        for first, last in BANDS[other]:
            photo[:, round(first * 640) : round(last * 640)] = 255
        monkeypatch.setattr(photographs_module, "photographs", lambda photo=photo: (photo, photo.transpose(1, 0, 2)))
        assert all(part.max() == 0 and min(part.shape[:2]) >= SIZE for part in regions.__wrapped__(split, SIZE))
    monkeypatch.undo()
    assert all(len(regions(split, SIZE)) >= 6 for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_takes_regions_of_its_own_split(split, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "regions", lambda *given: seen.append(given) or regions(*given))
    photo_scenes(split, range(3))
    assert set(seen) == {(split, SIZE)}


def test_bad_input_says_what_is_possible():
    with pytest.raises(UsageError, match="did you mean 'train'"):
        photo_scenes("trian", [0])
    with pytest.raises(UsageError, match="-1"):
        photo_scenes("train", [3, -1])


def test_the_name_of_the_data_follows_from_the_photographs(monkeypatch):
    monkeypatch.setattr(module, "fingerprint", lambda: "photos")
    assert [data_name(each) for each in (SCENES, PHOTOS)] == ["scenes", "photo-scenes"]
    monkeypatch.setattr(module, "fingerprint", lambda: "photos:0123ab")
    assert [data_name(each) for each in (SCENES, PHOTOS)] == ["scenes", "photo-scenes:0123ab"]
    assert "photo-scenes" in GENERATED
    for data in ("photo-scenes", "photo-scenes:0123ab"):  # every seed has images of its own
        assert not shares_images([SimpleNamespace(question={"data": data})] * 2)
    assert drawing(PHOTOS) is photo_scenes and drawing(SCENES) is scenes


# The task


def test_the_task_names_its_data_and_reads_scenes_on_photographs():
    task, plain = (gp.classification(name, weights="none", scorer="mlp:width=4") for name in (PHOTOS, SCENES))
    assert task.question["backbone"] == PHOTOS and task.question["data"] == data_name(PHOTOS)
    assert plain.question == task.question | {"backbone": SCENES, "data": "scenes"}
    batch, training = next(iter(task.batches(1, 4, 2))), next(task.training_batches(4, 2))
    other = next(iter(plain.batches(1, 4, 2)))
    assert batch.ids == other.ids == (2_000_000, 2_000_001, 2_000_002, 2_000_003)
    assert torch.equal(batch.relevant, other.relevant) and not torch.equal(batch.tokens.patches, other.tokens.patches)
    images = torch.from_numpy(photo_scenes("heldout", batch.ids).images)
    assert torch.equal(batch.tokens.patches, task.backbone.embed(images).patches)
    images = torch.from_numpy(photo_scenes("train", training.ids).images)
    assert torch.equal(training.tokens.patches, task.backbone.embed(images).patches)
    assert task.with_new_scorer(3).question["data"] == task.question["data"]


def test_scenes_that_are_kept_do_not_take_the_place_of_others():
    for pictures in (SCENES, PHOTOS):
        plain, kept = (SceneSource(device=torch.device(d), pictures=pictures) for d in ("cpu", "meta"))
        assert torch.equal(plain.probe(0, 3, 5).images, kept.probe(0, 3, 5).images)


def test_weights_that_are_not_there_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, PHOTOS, tmp_path / "photos.safetensors")
    with pytest.raises(GradprobeError, match="make them with: gradprobe train-scenes --pictures photos --out"):
        gp.classification(PHOTOS)
    shutil.copy(WEIGHTS, tmp_path / "photos.safetensors")
    assert gp.classification(PHOTOS).question["weights"] == gp.classification(SCENES).question["weights"]


def test_other_backbones_need_images_and_a_wrong_name_is_told_both():
    with pytest.raises(UsageError, match="needs images: give --data DIR"):
        gp.classification("deit_tiny_patch16_224", weights="none")
    with pytest.raises(UsageError, match="possible: scenes, photos, or a name of timm"):
        gp.classification("phtos")
    with pytest.raises(UsageError, match="--image-size is not possible with --backbone photos"):
        gp.classification(PHOTOS, weights="none", image_size=224)

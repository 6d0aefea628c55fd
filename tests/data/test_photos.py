"""Pictures on photographs: regions apart, digits and truth as on the plain background."""

import numpy as np
import pytest

from gradprobe.data import photos as module
from gradprobe.data.photos import BANDS, DISGUISED, fingerprint, patches_of, photographs, photos, regions
from gradprobe.data.pictures import COLOURS, GRID, MEAN, PATCH, SIZE, STD, as_bytes, objects_of, pictures, samples_of
from gradprobe.errors import GradprobeError, UsageError

SPLITS = ("train", "heldout")


@pytest.mark.parametrize("split", SPLITS)
def test_a_picture_depends_on_its_split_and_id_only(split):
    together, apart = photos(split, [5, 10**9, 7]), photos(split, np.array([7, 5]))
    for name in ("images", "relevant", "digit_of", "colour_of"):
        assert np.array_equal(getattr(together, name)[[2, 0]], getattr(apart, name))
    assert (together.objects[2], together.objects[0]) == apart.objects == objects_of(split, [7, 5])


def test_the_regions_of_the_splits_share_no_pixel(monkeypatch):
    marked = tuple(np.arange(h * w * 3, dtype=np.int64).reshape(h, w, 3) for h, w in ((427, 640), (600, 512)))
    bands = {}
    for split in SPLITS:
        bands[split] = set()
        for photo in marked:  # whole scale: a pixel's own number tells where it comes from
            along = int(photo.shape[0] < photo.shape[1])
            for first, last in BANDS[split]:
                where = [slice(None), slice(None)]
                where[along] = slice(round(first * photo.shape[along]), round(last * photo.shape[along]))
                bands[split] |= {(photo.shape, int(i)) for i in photo[tuple(where)].ravel()}
    assert not bands["train"] & bands["heldout"]
    assert {photo.shape for photo in photographs()} == {photo.shape for photo in marked}
    assert len(bands["train"]) + len(bands["heldout"]) > 0.99 * sum(photo.size for photo in marked)


def test_regions_are_cut_out_of_their_bands():
    """A photograph that is black but for one split's bands gives the other split black regions only."""
    for split, other in (SPLITS, SPLITS[::-1]):
        photo = np.zeros((427, 640, 3), np.uint8)
        for first, last in BANDS[other]:
            photo[:, round(first * 640) : round(last * 640)] = 255
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "photographs", lambda photo=photo: (photo, photo.transpose(1, 0, 2)))
            cut = regions.__wrapped__(split), regions.__wrapped__(other)
        assert max(part.max() for part in cut[0]) == 0 and min(part.min() for part in cut[1]) == 255
        assert min(min(part.shape[:2]) for part in cut[0]) >= SIZE


@pytest.mark.parametrize("split", SPLITS)
def test_the_truth_is_where_the_digits_are(split):
    """The brightest pixels of a digit's patches have its colour, but where a bright background outshines them."""
    drawn = photos(split, range(200))
    pixels = drawn.images * STD + MEAN
    right = []
    for b, objects in enumerate(drawn.objects):
        inside = np.zeros((GRID, GRID), bool)
        for o in objects:
            inside[o.row : o.row + 2, o.column : o.column + 2] = True
            where = (slice(o.row * PATCH, (o.row + 2) * PATCH), slice(o.column * PATCH, (o.column + 2) * PATCH))
            brightest = pixels[b][:, where[0], where[1]].reshape(3, -1)
            stroke = brightest[:, brightest.max(0) > np.quantile(brightest.max(0), 0.85)].mean(1)
            expected = {"red": [0], "green": [1], "blue": [2], "yellow": [0, 1]}[COLOURS[o.colour]]
            others = [c for c in range(3) if c not in expected]
            right.append(stroke[expected].min() > stroke[others].max())
        assert np.array_equal(inside.ravel(), drawn.relevant[b])
    assert np.mean(right) > 0.95
    assert np.array_equal(drawn.relevant, pictures(split, range(200)).relevant)


def test_pieces_wear_the_digits_colours_too():
    """A patch in a digit's colour need not be a digit: colour alone does not tell them apart."""
    drawn = photos("train", range(100))
    patches = patches_of(drawn.images * STD + MEAN).reshape(100, 100, 3, -1)
    strongest = patches.max(-1)
    red = (strongest[..., 0] > 0.55) & (strongest[..., 1:].max(-1) < 0.3)
    assert (red & ~drawn.relevant).sum() > 0.2 * (red & drawn.relevant).sum() and DISGUISED > 0


def test_backgrounds_are_diverse_and_images_whole_bytes():
    drawn = photos("heldout", range(64))
    assert np.array_equal(as_bytes(drawn.images).transpose(0, 3, 1, 2), np.rint((drawn.images * STD + MEAN) * 255))
    assert len({image.tobytes() for image in drawn.images}) == 64
    plain, rich = (
        patches_of(x.images)[~x.relevant].reshape(-1, 3, 64).mean(2) for x in (pictures("heldout", range(64)), drawn)
    )
    typical = [np.median(np.abs(x - np.median(x, axis=0))) for x in (plain, rich)]
    assert typical[1] > 3 * typical[0]
    assert samples_of("train") is samples_of("train")


def test_patches_are_in_raster_order():
    image = np.zeros((1, 3, SIZE, SIZE), np.float32)
    image[0, :, PATCH : 2 * PATCH, 3 * PATCH : 4 * PATCH] = 1
    assert patches_of(image)[0].sum(1).nonzero()[0].tolist() == [GRID + 3]


def test_the_name_of_the_data_follows_from_the_photographs(monkeypatch):
    assert fingerprint.__wrapped__() == "photos"
    monkeypatch.setattr(module, "photographs", lambda: (np.zeros((4, 4, 3), np.uint8),))
    assert fingerprint.__wrapped__().startswith("photos:")


def test_bad_input_says_what_is_possible(monkeypatch):
    with pytest.raises(UsageError, match="train"):
        photos("test", [0])
    with pytest.raises(UsageError, match="negative"):
        photos("train", [-1])
    monkeypatch.setattr("matplotlib.get_data_path", lambda: "nowhere")
    with pytest.raises(GradprobeError, match="pip install --force-reinstall scikit-learn matplotlib"):
        photographs.__wrapped__()

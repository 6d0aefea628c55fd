"""Pictures are made ready once: a cache changes no bit of a batch, forgets what changed, and stays within its bound."""

import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

import gradprobe as gp
from gradprobe.data import images as images_module
from gradprobe.data import picture_cache
from gradprobe.data.image_source import FolderSource, SceneSource
from gradprobe.data.images import ImageFolder
from gradprobe.data.picture_cache import LIMIT, BoundedCache, cache_on, home_of, onto, prepared, room_on

GPU = torch.device("cuda", 0)
COUNT = 12
ALL = range(COUNT + 1)  # positions, one of which cannot be read


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No picture is cached yet, and files are old enough."""
    monkeypatch.setattr(images_module, "RACY_NS", -1)
    for each in (cache_on, room_on):
        each.cache_clear()
    yield
    for each in (cache_on, room_on):
        each.cache_clear()


@pytest.fixture
def root(tmp_path):
    """Two classes of pictures, one of which cannot be read."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded."""
    names, read = [], images_module.read_picture

    def noted(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(images_module, "read_picture", noted)
    return names


def opened(root, transform=None):
    return ImageFolder.open(root, create_transform((3, 32, 32)) if transform is None else transform, 2)


def same(one, other):
    return torch.equal(one.images, other.images) and one.ids == other.ids and torch.equal(one.labels, other.labels)


def test_a_cache_changes_no_bit(root, monkeypatch):
    transform = create_transform((3, 32, 32))
    takes = [(seed, start) for seed in range(3) for start in (0, 4)]
    cached = opened(root, transform)
    twice = [[cached.take(cached.order(seed), start, 4) for seed, start in takes] for _ in range(2)]
    monkeypatch.setattr(ImageFolder, "_key", lambda self, index: None)
    plain = opened(root, transform)
    for one, again, wanted in zip(*twice, (plain.take(plain.order(s), i, 4) for s, i in takes), strict=True):
        assert same(one, wanted) and same(again, wanted)
    assert cached.skipped == plain.skipped == ("a/broken.png",)


def test_each_file_is_decoded_once_for_all_orders_epochs_and_copies(root, decoded):
    source = FolderSource(opened(root))
    for seed in range(3):
        source.probe(0, COUNT, seed)
        source.train(0, 3 * COUNT, seed)
    again = source.unread()
    again.probe(0, COUNT, 0)
    good = [name for name in decoded if name != "broken.png"]
    assert sorted(good) == sorted({f"{i}.png" for i in range(COUNT)}) and again.skipped == source.skipped


def test_operators_and_seeds_of_a_task_share_what_was_decoded(root, decoded):
    (root / "a" / "broken.png").unlink()
    task = gp.classification("scenes", data=root, loss="kl")
    first = gp.equivalence(task, "vpnoise", k=58, images=COUNT)
    assert len(decoded) == COUNT
    gp.equivalence(task, "gumbel", k=58, images=COUNT)
    again = gp.equivalence(task.with_new_scorer(3), "vpnoise", k=58, images=COUNT)
    assert len(decoded) == COUNT and np.array_equal(first.losses, again.losses)


def test_a_file_that_changed_is_read_anew(root):
    transform = create_transform((3, 32, 32))
    before = opened(root, transform).take(ALL, 0, COUNT)
    name = root / "a" / "0.png"
    Image.new("RGB", (60, 40), (255, 0, 0)).save(name)
    after = opened(root, transform).take(ALL, 0, COUNT)
    assert sum(not torch.equal(x, y) for x, y in zip(before.images, after.images, strict=True)) == 1
    other = root / "b" / "1.png"
    status = other.stat()
    shutil.copy(name, other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))  # as old as before, it is another file
    last = opened(root, transform).take(ALL, 0, COUNT)
    assert sum(not torch.equal(x, y) for x, y in zip(after.images, last.images, strict=True)) == 1


def test_a_file_that_changed_a_moment_ago_is_not_cached(root, decoded, monkeypatch):
    monkeypatch.setattr(images_module, "RACY_NS", 10**15)
    folder = opened(root)
    for _ in range(2):
        folder.take(range(COUNT), 0, 4)
    assert len(decoded) == 8 and len(cache_on(torch.device("cpu"))) == 0


def test_a_file_that_was_repaired_is_seen_by_the_next_task_alone(root):
    transform = create_transform((3, 32, 32))
    folder = opened(root, transform)
    folder.take(ALL, 0, COUNT)
    shutil.copy(next(root.glob("b/*.png")), root / "a" / "broken.png")
    later = opened(root, transform)
    assert len(later.take(ALL, 0, COUNT + 1).ids) == COUNT + 1 and later.skipped == ()
    assert len(folder.take(ALL, 0, COUNT).ids) == COUNT and folder.skipped == ("a/broken.png",)


class Unhashable(list):
    """A transform that cannot be a key."""

    def __call__(self, image):
        return torch.full((3, 2, 2), float(image.height))


def test_transforms_do_not_share_and_need_not_be_hashable(root, decoded):
    def shade(value, image):
        return torch.full((3, 2, 2), float(value))

    for value in (1, 2):
        assert bool((opened(root, partial(shade, value)).take(ALL, 0, COUNT).images == value).all())
    count = len(decoded)
    folder = opened(root, Unhashable())
    assert same(folder.take(range(4), 0, 3), folder.take(range(4), 0, 3)) and len(decoded) > count + 3


def test_what_a_caller_writes_into_a_batch_stays_there(root):
    folder = opened(root)
    first = folder.take(range(4), 0, 3)
    wanted = first.images.clone()
    first.images.zero_()
    assert torch.equal(folder.take(range(4), 0, 3).images, wanted)


def test_the_oldest_are_dropped_first_and_the_bound_holds():
    kept = BoundedCache[int](10)
    for i in range(6):
        kept.put(i, i, 3)
        kept.put(i, -1, 3)  # known
    assert kept.get(range(6)) == {3: 3, 4: 4, 5: 5} and kept.size == 9 and len(kept) == 3
    kept.put(6, 6, 100)  # larger than all of it
    assert len(kept) == 0 and kept.size == 0
    for i in range(3):
        kept.put(i, i, 3, limit=4)
    assert kept.get(range(3)) == {2: 2}


def test_a_cache_smaller_than_a_folder_changes_no_bit(root, decoded):
    folder = opened(root)
    wanted = folder.take(ALL, 0, COUNT)
    host = cache_on(torch.device("cpu"))
    host.limit = 3 * wanted.images[0].nbytes
    host.put("another", (torch.zeros(0),), 1)
    assert len(host) <= 4
    assert same(folder.take(ALL, 0, COUNT), wanted) and host.size <= host.limit


def test_only_its_own_bytes_are_kept_of_a_picture():
    whole = torch.arange(12.0).reshape(4, 3)
    prepared(["a", "b"], lambda at: [(whole[i],) for i in at], torch.device("cpu"))
    for (row,) in cache_on(torch.device("cpu")).get("ab").values():
        assert row.untyped_storage().nbytes() == row.nbytes


# Where pictures are kept


@pytest.mark.parametrize(("free", "at_home"), [(80e9, True), (16e9, True), (7e9, False), (0, False)])
def test_a_gpu_keeps_pictures_where_it_has_room_and_the_host_else(free, at_home, monkeypatch):
    monkeypatch.setattr(picture_cache, "free_memory", lambda device: free)
    assert home_of(GPU) == (GPU if at_home else torch.device("cpu"))
    assert home_of(torch.device("cpu")) == home_of(torch.device("mps")) == torch.device("cpu")
    assert room_on(GPU) <= free / 2 and cache_on(home_of(GPU)).limit == (room_on(GPU) if at_home else LIMIT)


def test_pictures_go_to_their_home_in_one_copy(monkeypatch):
    home, copies = torch.device("meta"), []
    monkeypatch.setattr(picture_cache, "home_of", lambda device: home)

    def noted(values, device):
        copies.append(len(values))
        return onto(values, device)

    monkeypatch.setattr(picture_cache, "onto", noted)

    def make(at):
        return [None if i == 1 else (torch.ones(3, 2, 2), torch.tensor(i)) for i in at]

    first = prepared(["a", "b", "c", None], make, GPU)
    assert [each is None for each in first] == [False, True, False, False] and copies == [3, 3]
    assert all(x.device == home for each in first if each for x in each)
    assert prepared(["c", "a"], lambda at: [], GPU)[0] is not None and copies == [3, 3]
    assert len(cache_on(home)) == 2


def test_scenes_that_are_kept_are_the_scenes():
    plain, kept = SceneSource(), SceneSource(device=torch.device("meta"))  # whose home is the host
    for take in ("probe", "train"):
        for start in (0, 3, 0):
            one, other = (getattr(source, take)(start, 6, 1) for source in (plain, kept))
            assert same(one, other) and torch.equal(one.relevant, other.relevant)
    assert len(cache_on(torch.device("cpu"))) == 2 * 9

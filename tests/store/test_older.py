"""Answers in the older layout, a folder each, are found, read, listed and replaced; damage to them is one line."""

import os

import pytest
from stored import asked, make_older, members_of, result
from test_results import names_in, same

from gradprobe.errors import GradprobeError
from gradprobe.store.archive import read_files
from gradprobe.store.record import key_of
from gradprobe.store.results import Store


@pytest.fixture
def folder(tmp_path):
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "scorer.json").write_text("{}")
    return make_older(Store(tmp_path / "runs").save(result(seed=1), keep))


def test_a_folder_is_found_read_listed_and_replaced_by_a_file(tmp_path, folder):
    store, key = Store(tmp_path / "runs"), key_of(asked())
    newer = store.save(result(asked(k=20)))
    assert folder.name == f"coherence-{key}" and store.find(asked()) == folder
    for which in (folder, key, key[:4], f"coherence/{key[:4]}"):
        same(store.load(which), result(seed=1))
    assert read_files(folder) == {"scorer.json": b"{}"}
    assert store.paths() == {f"coherence/{key}": folder, f"coherence/{newer.stem}": newer}
    assert {(entry.key, entry.problem) for entry in store.entries()} == {(key, ""), (newer.stem, "")}
    path = store.save(result(seed=2))
    assert store.find(asked()) == path and not folder.exists()
    same(store.load(key), result(seed=2))


def test_a_file_counts_where_both_are_there(tmp_path, folder):
    store = Store(tmp_path / "runs")
    copy = folder.rename(tmp_path / "copy")
    path = store.save(result(seed=2))
    copy.rename(folder)  # as after a kill before the folder was removed
    assert store.find(asked()) == path == store.paths()[f"coherence/{path.stem}"]
    assert [entry.path for entry in store.entries()] == [path]


ARRAYS = {
    "no arrays": (lambda f: (f / "arrays.npz").unlink(), "there is no arrays.npz"),
    "empty arrays": (lambda f: (f / "arrays.npz").write_bytes(b""), "damaged"),
    "one bit": (lambda f: flip(f / "arrays.npz"), "damaged"),
    "a byte behind": (lambda f: longer(f / "arrays.npz"), "its end is missing"),
    "a FIFO": (lambda f: ((f / "arrays.npz").unlink(), os.mkfifo(f / "arrays.npz")), "cannot be read"),
}  # fmt: skip
DAMAGE = ARRAYS | {
    "a link to itself": (lambda f: linked(f / "run.json"), "cannot be read"),
    "a folder as record": (lambda f: ((f / "run.json").unlink(), (f / "run.json").mkdir()), "cannot be read"),
    "half a record": (lambda f: (f / "run.json").write_bytes((f / "run.json").read_bytes()[:-100]), "damaged"),
    "an edited record": (lambda f: edit(f / "run.json", b'"mlp"', b'"map"'), "was edited"),
    "an edited number": (lambda f: edit(f / "run.json", b'"none"', b'"yes"'), "was edited"),
    "another name": (lambda f: f.rename(f.with_name(f"coherence-{key_of(asked(k=3))}")), "rename it to coherence-"),
}  # fmt: skip


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def linked(path):
    path.unlink()
    path.symlink_to(path.name)


def edit(path, before, after):
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_and_hides_no_other(tmp_path, name):
    store = Store(tmp_path)
    good, bad = store.save(result()), make_older(store.save(result(asked(k=20), gradient="none")))
    harm, message = DAMAGE[name]
    harm(bad)
    (bad,) = (path for path in store.paths().values() if path != good)
    with pytest.raises(GradprobeError, match=message) as error:
        store.load(bad)
    assert len(str(error.value).splitlines()) == 1 and str(bad) in str(error.value)
    assert "delete" not in str(error.value) or "cannot be read" not in message
    listed = {entry.path: bool(entry.problem) for entry in store.entries()}
    assert listed == {good: False, bad: name not in ARRAYS}  # a listing reads no arrays
    same(store.load(good), result())


def test_the_folder_that_these_tests_make_is_the_one_that_was_written(tmp_path, folder):
    assert names_in(folder) == ["arrays.npz", "run.json", "scorer.json"]
    assert list(members_of(folder / "arrays.npz")) == [
        f"{name}.npy" for name in ("common", "energy", "gram", "losses", "spread")
    ]

"""Captions in data sets of the library ``datasets``: columns, splits, bad rows, hubs out of reach, and training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from captioned import FEW, SIZES, captioned, trained, with_processor
from PIL import Image

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.training.train import fit

ROOT = Path(__file__).parents[2]


# Without the library


@pytest.mark.parametrize("name", ["user/name", "user/name:train"])
def test_without_the_library_a_hub_id_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GradprobeError, match=rf'--data {name} .*pip install "gradprobe\[datasets\]"'):
        open_captions(name)


def test_without_the_library_a_saved_folder_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(GradprobeError, match=r"pip install"):
        open_captions(tmp_path)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "data/nowhere.jsonl", "a/b/c", "C:/x", "nowhere:train"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="does not exist"):
        open_captions(name)


def test_columns_go_with_tables(tmp_path):
    for option in ({"image_column": "x"}, {"caption_column": "x"}):
        with pytest.raises(UsageError, match=r"-column x goes with a data set of the library datasets"):
            open_captions(captioned(tmp_path), **option)


# With it


@pytest.fixture(scope="module")
def datasets():
    """The library, which must not look for a network."""
    return pytest.importorskip("datasets", reason='no datasets; type: pip install "gradprobe[datasets]"')


def pictures(count: int) -> list[Image.Image]:
    made = []
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        made.append(Image.fromarray(np.random.default_rng(i).integers(0, 255, (height, width, 3)).astype(np.uint8)))
    return made


def table(datasets, images, **columns):
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": images}, features=features)
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


@pytest.fixture(scope="module")
def saved(datasets, tmp_path_factory) -> Path:
    """Twelve captioned images, as `captioned` makes them, saved to a folder."""
    folder = tmp_path_factory.mktemp("table") / "saved"
    captions = [f"picture {i}" for i in range(12)]
    table(datasets, pictures(12), caption=captions, prompt=["<image> say :"] * 12).save_to_disk(folder)
    return folder


def read(source) -> set:
    examples = source.probe(0, source.size, 0) + source.train(0, source.epoch, 0)
    images = [e.image() if callable(e.image) else e.image for e in examples]
    return {(e.prompt, e.caption, image.size, image.tobytes()) for e, image in zip(examples, images, strict=True)}


def test_a_saved_folder_is_its_images_and_captions(saved):
    source = open_captions(saved, held_out=4)
    assert (source.size, source.epoch, source.skipped) == (4, 8, ())
    wanted = {("<image> say :", f"picture {i}", p.size, p.tobytes()) for i, p in enumerate(pictures(12))}
    assert read(source) == wanted


def test_order_and_place_of_a_table_change_nothing(datasets, saved, tmp_path):
    rows = datasets.load_from_disk(str(saved))
    rows.select(list(reversed(range(12)))).save_to_disk(tmp_path / "other")
    one, other = open_captions(saved, held_out=4), open_captions(tmp_path / "other", held_out=4)
    assert {e.id for e in one.probe(0, 4, 0)} == {e.id for e in other.probe(0, 4, 0)}
    rows.save_to_disk(tmp_path / "copy")
    assert open_captions(tmp_path / "copy", held_out=4).fingerprint == one.fingerprint != other.fingerprint


def test_captions_of_one_image_are_on_one_side(datasets, tmp_path):
    images = pictures(6)
    captions = [[f"{i} one", f"{i} two", f"{i} one"] for i in range(6)]
    table(datasets, images, captions=captions).save_to_disk(tmp_path / "lists")
    source = open_captions(tmp_path / "lists", held_out=2)
    assert (source.size, source.epoch) == (4, 8)  # a repetition within a row is no fault
    sides = [{e.caption.split()[0] for e in side} for side in (source.probe(0, 4, 0), source.train(0, 8, 0))]
    assert not sides[0] & sides[1] and source.skipped == ()


def test_bad_rows_are_named_by_their_numbers(datasets, tmp_path):
    images: list = [*pictures(8), None]
    captions = ["a", "", "c", None, "a <image>", "f", "g", "h", "i"]
    rows = table(datasets, images, caption=captions)
    rows = datasets.concatenate_datasets([rows, rows.select([0])])
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"no picture", "path": None}], "caption": ["x"]})
    rows = datasets.concatenate_datasets([rows, broken.cast(rows.features)])
    rows.save_to_disk(tmp_path / "bad")
    source = open_captions(tmp_path / "bad", held_out=1)
    read(source)
    assert source.n_skipped == 6
    for words in (
        "row 1: no caption", "row 3: no caption", "row 4: the caption has the model's placeholder", "row 8: no image",
        "row 9: the same image and caption as row 0",
    ):  # fmt: skip
        assert any(each.startswith(words) for each in source.skipped), source.skipped
    alone = open_captions(tmp_path / "bad", held_out=5)
    assert "and 1 more" in alone.skipped
    assert any("row 10 is no picture" in f"{alone.listing.place_of(i)} {f}" for i, f in alone._faults.items() if f)


def test_columns_are_found_or_named(datasets, tmp_path):
    images, texts = pictures(4), ["a", "b", "c", "d"]
    rows = table(datasets, images, blip=texts)
    rows = rows.rename_column("image", "photo")
    rows.save_to_disk(tmp_path / "odd")
    assert open_captions(tmp_path / "odd", held_out=1).epoch == 3  # the only images, the only texts
    two = rows.add_column("url", texts).add_column("n", [1, 2, 3, 4])
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(UsageError, match=r"certain to hold captions; name it with --caption-column: photo .*, blip"):
        open_captions(tmp_path / "two")
    assert open_captions(tmp_path / "two", held_out=1, caption_column="blip").epoch == 3
    with pytest.raises(UsageError, match=r"--caption-column blib is not in .*did you mean 'blip'"):
        open_captions(tmp_path / "two", caption_column="blib")
    with pytest.raises(UsageError, match=r"--caption-column n holds no text \(int64\)"):
        open_captions(tmp_path / "two", caption_column="n")


def test_paths_of_images_are_relative_to_a_folder(datasets, tmp_path):
    file = captioned(tmp_path / "files", 6)
    lines = [json.loads(line) for line in file.read_text().splitlines()] + [{"image": "none.png", "caption": "x"}]
    rows = {name: [line[name] for line in lines] for name in ("image", "caption")}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "paths")
    source = open_captions(tmp_path / "paths", tmp_path / "files", held_out=2)
    assert source.size + source.epoch == 6 and source.skipped == (
        "row 6: image cannot be read (No such file or directory)",
    )


def test_splits_are_named(datasets, tmp_path):
    rows = table(datasets, pictures(4), caption=["a", "b", "c", "d"])
    both = datasets.DatasetDict(train=rows, test=rows.select([0, 1]))
    both.save_to_disk(tmp_path / "both")
    assert open_captions(tmp_path / "both", held_out=1).epoch == 3  # train
    assert open_captions(f"{tmp_path / 'both'}:test", held_out=1).epoch == 1
    with pytest.raises(UsageError, match=r"has no split val; give one of --data .*both:train, --data .*both:test"):
        open_captions(f"{tmp_path / 'both'}:val")
    datasets.DatasetDict(a=rows, b=rows).save_to_disk(tmp_path / "ab")
    with pytest.raises(UsageError, match="has several splits; give one of"):
        open_captions(tmp_path / "ab")
    rows.save_to_disk(tmp_path / "one")
    with pytest.raises(UsageError, match="has no splits; leave out :train"):
        open_captions(f"{tmp_path / 'one'}:train")


def test_a_damaged_folder_is_one_line(saved, tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(GradprobeError, match=r"cannot be read: .*save it again with save_to_disk"):
        open_captions(tmp_path)


def test_the_hub_is_asked_for_the_split(datasets, saved, monkeypatch):
    calls = []

    def load(name, split):
        calls.append((name, split))
        rows = datasets.load_from_disk(str(saved))
        return datasets.DatasetDict(train=rows) if split is None else rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    here = open_captions(saved, held_out=4)
    for name in ("user/photos", "user/photos:train[:50%]"):
        assert open_captions(name, held_out=4).fingerprint == here.fingerprint
    assert calls == [("user/photos", None), ("user/photos", "train[:50%]")]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Couldn't reach 'user/photos' on the Hub", "is there a network"),
        ("Config name is missing. Please pick one", r'load_dataset\("user/photos", "CONFIG"\).save_to_disk'),
        ('Unknown split "val". Should be one of train', "--data user/photos:SPLIT"),
    ],
)
def test_what_the_hub_refuses_is_one_line(message, words, datasets, monkeypatch):
    def load(name, split):
        raise ValueError(message)

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(GradprobeError, match=f"--data user/photos .*{words}"):
        open_captions("user/photos")


def test_a_hub_out_of_reach_is_one_line(datasets, tmp_path):
    arguments = ("--model", "scenes-vlm", "--data", "user/photos", "--k", "5", "--out", tmp_path / "out")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gradprobe", "vlm", "train", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--data user/photos is no file or folder here, nor data of the hub" in done.stderr


# Training


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from captioned import FEW, with_processor
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.training.train import fit

def progress(what, done, total):
    if done == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

fit(with_processor("qwen2_5_vl"), open_captions({data!r}, held_out=4), {out!r}, FEW, rows=2, progress=progress)
"""


@pytest.mark.parametrize("step", [1, 5])
def test_killed_on_a_table_it_resumes_to_the_same_bytes(step, saved, tmp_path):
    whole = trained("qwen2_5_vl", open_captions(saved, held_out=4), tmp_path / "whole")
    program = KILLED.format(tests=str(ROOT / "tests"), data=str(saved), out=str(tmp_path / "parts"), step=step)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    source = open_captions(saved, held_out=4)
    parts = fit(with_processor("qwen2_5_vl"), source, tmp_path / "parts", FEW, rows=2)
    assert (parts.out / "scorer.safetensors").read_bytes() == (whole.out / "scorer.safetensors").read_bytes()
    assert parts.losses == whole.losses

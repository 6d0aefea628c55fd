"""Fingerprints are of contents, and a hash that is remembered is never one of other contents."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from gradprobe.data import hashes
from gradprobe.data.fingerprints import data_fingerprint, model_fingerprint, weights_fingerprint
from gradprobe.data.hashes import cache_folder, file_hash, file_hashes
from gradprobe.embedded.vlms import VLMS
from gradprobe.errors import GradprobeError
from gradprobe.vlm.caption_files import list_captions

OLD = 10**9  # seconds: a file of long ago


def aged(path, seconds=OLD):
    """The same file as if it had lain there for years; its time of change is that of now, so the clock is put on."""
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def later(monkeypatch, tmp_path):
    """A cache of one's own, and a clock by which all files of the test are old."""
    now = hashes.time.time_ns
    monkeypatch.setattr(hashes.time, "time_ns", lambda: now() + 10**11)
    monkeypatch.setenv(hashes.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """The files that are read through, by name."""
    read, digest = [], hashes.file_digest

    def noted(file, name):
        read.append(Path(f"/proc/self/fd/{file.fileno()}").resolve().name)
        return digest(file, name)

    monkeypatch.setattr(hashes, "file_digest", noted)
    return read


def photos(folder):
    (folder / "cat").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / "cat" / f"{i}.png")
    return folder


# --- contents ---


def test_another_picture_of_the_same_size_is_another_question(tmp_path):
    folder = photos(tmp_path / "a")
    before, path = data_fingerprint(folder), folder / "cat" / "1.png"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    changed = data_fingerprint(folder)
    assert changed != before
    path.write_bytes(bytes(reversed(path.read_bytes())))
    assert data_fingerprint(folder) == before == data_fingerprint(photos(tmp_path / "b"))


def test_files_that_cannot_be_read_are_named_by_their_path(tmp_path):
    folder = photos(tmp_path / "a")
    before = data_fingerprint(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    with_link = data_fingerprint(folder)
    (folder / "gone.png").unlink()
    os.mkfifo(folder / "gone.png")
    assert data_fingerprint(folder) in (before, with_link)  # and does not wait for a writer
    assert with_link != before


DECIDING = (
    "model.safetensors", "config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json", "adapter_config.json",
    "adapter_model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "video_preprocessor_config.json",
    "additional_chat_templates/tool.jinja", "decoder_tokenizer/tokenizer.json",
)  # fmt: skip


@pytest.mark.parametrize("name", DECIDING)
def test_every_file_that_decides_what_a_model_sees_or_says_counts(tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(VLMS["scenes-vlm"], folder)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{}")
    before = model_fingerprint(str(folder))
    path.write_bytes(b"[]")
    changed = model_fingerprint(str(folder))
    path.unlink()
    assert len({before, changed, model_fingerprint(str(folder))}) == 3


@pytest.mark.parametrize(
    "name", ["README.md", "card.json", "LICENSE", "photo.jpg", ".gitattributes", "old/config.json"]
)
def test_documents_and_other_models_below_do_not_count(tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(VLMS["scenes-vlm"], folder)
    before = model_fingerprint(str(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("new")
    assert model_fingerprint(str(folder)) == before == model_fingerprint("scenes-vlm")


def test_one_byte_in_the_middle_of_a_large_file_counts(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(70 << 20)
    before = model_fingerprint(str(tmp_path))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(35 << 20)
        file.write(b"x")
    assert model_fingerprint(str(tmp_path)) != before


def test_an_adapter_is_named_by_the_model_that_it_adapts_too(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = model_fingerprint(str(adapter))
    (base / "config.json").write_text("[]")
    assert model_fingerprint(str(adapter)) != before
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    assert model_fingerprint(str(adapter))  # each adapts the other: no endless walk


def test_captions_are_named_by_their_pictures_too(tmp_path):
    folder = photos(tmp_path / "a")
    (folder / "captions.jsonl").write_text('{"image": "cat/1.png", "caption": "a cat"}\n')
    before, path = list_captions(folder).fingerprint, folder / "cat" / "1.png"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    assert list_captions(folder).fingerprint != before
    other = list_captions(folder).fingerprint
    (folder / "cat" / "0.png").write_bytes(b"")  # of no caption
    assert list_captions(folder).fingerprint == other


def test_weights_that_cannot_be_read_are_told_in_one_line(tmp_path):
    (tmp_path / "w").symlink_to(tmp_path / "w")
    with pytest.raises(GradprobeError, match="cannot be read") as error:
        file_hash(tmp_path / "w")
    assert len(str(error.value).splitlines()) == 1
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(GradprobeError, match="no regular file"):
        file_hash(tmp_path / "fifo")


# --- remembered ---


def test_a_file_is_read_once(tmp_path, later, reads):
    folder = photos(tmp_path / "a")
    first = data_fingerprint(folder)
    assert sorted(reads) == ["0.png", "1.png", "2.png"]
    assert data_fingerprint(folder) == first and len(reads) == 3
    (folder / "cat" / "1.png").write_bytes(b"other")
    assert data_fingerprint(folder) != first and reads[3:] == ["1.png"]
    one = folder / "cat" / "2.png"
    hashed = [weights_fingerprint("x", one, 0), weights_fingerprint("x", one, 0)]
    assert hashed == [f"sha256:{sha256(one.read_bytes()).hexdigest()[:16]}"] * 2 and len(reads) == 5


@pytest.mark.parametrize("change", ["same size", "same size and mtime", "replaced by rename"])
def test_no_change_is_missed(tmp_path, later, change):
    path = aged(tmp_path / "w") if (tmp_path / "w").write_bytes(b"one") else None
    assert file_hash(path) == sha256(b"one").hexdigest()
    if change == "replaced by rename":
        (tmp_path / "new").write_bytes(b"two")
        aged(tmp_path / "new").rename(path)
    else:
        path.write_bytes(b"two")
    if change == "same size and mtime":
        aged(path)
    assert file_hash(path) == sha256(b"two").hexdigest()


def test_a_young_file_is_hashed_again_each_time(tmp_path, monkeypatch, reads):
    monkeypatch.setenv(hashes.VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "w"
    path.write_bytes(b"one")
    assert [file_hash(path), file_hash(path)] == [sha256(b"one").hexdigest()] * 2
    assert reads == ["w", "w"] and not (tmp_path / "cache").exists()
    stamp = hashes.stamp(path.stat())
    monkeypatch.setattr(hashes, "stamp", lambda found: stamp)  # a clock that stands still
    path.write_bytes(b"two")
    assert file_hash(path) == sha256(b"two").hexdigest()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, later, monkeypatch):
    path, digest = tmp_path / "w", hashes.file_digest
    path.write_bytes(b"one")

    def changed(file, name):
        found = digest(file, name)
        path.write_bytes(b"three")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hashes, "file_digest", changed)
        file_hash(path)
    assert not later.exists() and file_hash(path) == sha256(b"three").hexdigest()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100, b"[" * 100_000, "flipped", "folder"])
def test_a_damaged_memory_is_no_memory(tmp_path, later, damage):
    path = tmp_path / "w"
    path.write_bytes(b"one")
    right = file_hash(path)
    (memory,) = later.iterdir()
    content = memory.read_bytes()
    if damage == "folder":
        memory.unlink()
        memory.mkdir()
    else:
        memory.write_bytes(content.replace(right[:8].encode(), b"00000000") if damage == "flipped" else damage)
    assert file_hash(path) == right
    assert damage == "folder" or memory.read_bytes() == content  # written anew


def test_without_a_place_for_the_memory_all_goes_on(tmp_path, monkeypatch, later):
    (tmp_path / "w").write_bytes(b"one")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(hashes.VARIABLE, str(tmp_path / "file" / "cache"))
    assert file_hash(tmp_path / "w") == sha256(b"one").hexdigest()
    monkeypatch.delenv(hashes.VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(hashes.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None
    assert file_hash(tmp_path / "w") == sha256(b"one").hexdigest()


def test_many_writers_leave_a_whole_memory(tmp_path, later):
    from concurrent.futures import ThreadPoolExecutor

    names = [f"{i}" for i in range(20)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    right = [sha256(name.encode()).hexdigest() for name in names]
    with ThreadPoolExecutor(8) as pool:
        all_found = list(pool.map(lambda _: file_hashes(tmp_path, names), range(40)))
    assert all(found == right for found in all_found)
    (memory,) = later.iterdir()  # and no temporary file
    assert set(hashes._read(memory)) == set(names)

"""Captioned images on disk: entries, faults and the order of examples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from captioned import CAPTIONS, captioned, paint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.caption_files import Entry, first_faults, list_captions
from gradprobe.vlm.captions import PROMPT, open_captions, placeholder_first, template_of


def lines(file: Path, *given) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in given))
    return file


def test_a_line_is_an_image_and_a_caption(tmp_path):
    paint(tmp_path / "a b/ü.png", (5, 4), 0)
    line = {"image": "a b/ü.png", "caption": " a dog ", "prompt": "What?", "question": "Where?", "answer": "here"}
    file = lines(tmp_path / "captions.jsonl", line, b"", b"  ")  # empty lines are no faults
    listing = list_captions(file)
    assert listing.entries == (Entry("a b/ü.png", "a dog", "What?", "Where?", "here"),) and listing.faults == ()
    assert list_captions(tmp_path).entries == listing.entries  # the folder means its captions.jsonl


def test_hugging_face_names_are_read_too(tmp_path):
    paint(tmp_path / "a.png", (5, 4), 0)
    lines(tmp_path / "metadata.jsonl", {"file_name": "a.png", "text": "a dog"})
    assert list_captions(tmp_path).entries == (Entry("a.png", "a dog"),)


def test_broken_lines_are_passed_over_and_told_by_their_number(tmp_path):
    paint(tmp_path / "a.png", (5, 4), 0)
    good = {"image": "a.png", "caption": "fine"}
    file = lines(
        tmp_path / "captions.jsonl",
        b"\xef\xbb\xbf" + json.dumps(good).encode(),  # 1: as Windows editors write it
        b'{"image": "a.png", "caption"',  # 2
        [1, 2],  # 3
        {"caption": "no image"},  # 4
        {"image": "a.png", "caption": "  "},  # 5
        {"image": 3, "caption": "x"},  # 6
        {"image": "gone.png", "caption": "x"},  # 7
        {"image": "a.png", "caption": "x", "question": 3},  # 8
        b"\xff\xfe",  # 9
        good,  # 10
        {"image": ".", "caption": "a folder"},  # 11
        {"image": "a.png", "caption": "second"},  # 12
    )
    listing = list_captions(file)
    assert [entry.caption for entry in listing.entries] == ["fine", "second"]
    assert [int(fault.split(":")[0].removeprefix("line ")) for fault in listing.faults] == list(range(2, 12))
    assert "no JSON" in listing.faults[0] and "gone.png" in listing.faults[5] and "line 1" in listing.faults[8]
    assert first_faults(listing.faults) == (*listing.faults[:5], "and 5 more")


def test_a_folder_of_images_and_texts(tmp_path):
    for name in ("one", "deep/two", "three", "four", "five"):
        paint(tmp_path / f"{name}.png", (5, 4), 0)
    (tmp_path / "one.txt").write_text("first\n", encoding="utf-8")
    (tmp_path / "deep/two.txt").write_text("second", encoding="utf-8")
    (tmp_path / "four.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "five.txt").write_bytes(b"\xff\xfe\xfd")
    listing = list_captions(tmp_path)
    assert {(e.image, e.caption) for e in listing.entries} == {("one.png", "first"), ("deep/two.png", "second")}
    assert len(listing.faults) == 3 and any("no three.txt" in fault for fault in listing.faults)


@pytest.mark.parametrize("content", [b"", b"{}\n", b'[{"image": "a.png", "caption": "x"}]\n', b"\x00\x01\n" * 9])
def test_nothing_usable_says_what_a_line_looks_like(tmp_path, content):
    (tmp_path / "captions.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=r'a line looks like {"image": .*"caption": ') as error:
        list_captions(tmp_path / "captions.jsonl")
    if content:
        assert "line 1" in str(error.value)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        list_captions(tmp_path / "nothing.jsonl")
    with pytest.raises(UsageError, match="has no image"):
        list_captions(tmp_path)
    paint(tmp_path / "a.png", (5, 4), 0)
    with pytest.raises(UsageError, match=r"no a\.txt"):
        list_captions(tmp_path)
    with pytest.raises(UsageError, match="--image-root"):
        list_captions(tmp_path, image_root=tmp_path)


def test_images_may_lie_elsewhere_and_the_fingerprint_does_not_care(tmp_path):
    file = captioned(tmp_path / "one")
    shutil.copytree(tmp_path / "one/images", tmp_path / "other/images")
    moved = lines(tmp_path / "captions.jsonl", *(json.loads(line) for line in file.read_text().splitlines()))
    here, there = list_captions(file), list_captions(moved, image_root=tmp_path / "other")
    assert here.entries == there.entries and here.fingerprint == there.fingerprint
    paint(tmp_path / "other/images/3.png", (7, 7), 3)  # another image under the same name
    assert list_captions(moved, image_root=tmp_path / "other").fingerprint != here.fingerprint


def test_ids_are_unique_stable_and_take_part_in_no_order(tmp_path):
    file = captioned(tmp_path)
    ids = {e.image: e.id for e in list_captions(file).entries}
    assert len(set(ids.values())) == 12 and all(0 <= i < 2**63 for i in ids.values())
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert {e.image: e.id for e in list_captions(file).entries} == ids
    assert Entry("a.png", "x").id == 7471094756232310756  # on this and any other machine


@given(
    count=st.integers(2, 12), held=st.integers(0, 11), seed=st.integers(0, 5), start=st.integers(0, 40),
    size=st.integers(1, 20),
)  # fmt: skip
@settings(max_examples=40)
def test_training_goes_round_and_round_apart_from_what_is_held_out(shared, count, held, seed, start, size):
    held = min(held, count - 1)
    source = open_captions(shared(count), held_out=held)
    assert (source.size, source.epoch) == (held, count - held)
    both = source.train(start, size + 3, seed)
    assert [e.id for e in both[3:]] == [e.id for e in source.train(start + 3, size, seed)]  # by position alone
    first = {e.id for e in source.train(0, source.epoch, seed)}
    second = {e.id for e in source.train(source.epoch, source.epoch, seed)}
    assert first == second and len(first) == source.epoch
    probed = [e.id for e in source.probe(0, held, seed)] if held else []
    assert len(set(probed)) == held and not first & set(probed)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folders: dict[int, Path] = {}

    def folder(count: int) -> Path:
        if count not in folders:
            folders[count] = captioned(tmp_path_factory.mktemp("captions"), count)
        return folders[count]

    return folder


def test_other_seeds_other_orders(shared):
    source = open_captions(shared(12), held_out=5)
    assert len({tuple(e.id for e in source.train(0, 7, seed)) for seed in range(5)}) == 5
    assert len({tuple(e.id for e in source.probe(0, 5, seed)) for seed in range(5)}) > 1


def test_what_is_held_out_follows_from_the_image_alone(tmp_path):
    file = captioned(tmp_path)
    held = {e.id for e in open_captions(file, held_out=4).probe(0, 4, 0)}
    old = file.read_text().splitlines()
    again = [{**json.loads(line), "caption": "another caption"} for line in old]
    lines(file, *reversed([json.loads(line) for line in old]), *again)  # another order, and each image twice
    source = open_captions(file, held_out=4)
    probed = source.probe(0, 8, 0)
    assert source.size == 8 and held < {e.id for e in probed}
    shapes = {np.asarray(_image(e)).tobytes() for e in probed}
    assert not shapes & {np.asarray(_image(e)).tobytes() for e in source.train(0, 16, 0)}


def test_a_tenth_is_held_out_by_default(shared):
    assert open_captions(shared(12)).size == 1


def test_as_many_held_out_as_there_are_is_refused(shared):
    with pytest.raises(UsageError, match=r"12 images and 12 would be held out.*--validation"):
        open_captions(shared(12), held_out=12)
    with pytest.raises(UsageError, match="5 captions are held out and 6 are needed"):
        open_captions(shared(12), held_out=5).probe(0, 6, 0)


def test_an_image_that_cannot_be_read_changes_nothing_but_itself(tmp_path):
    file = captioned(tmp_path)
    whole = open_captions(file, held_out=3)
    order = whole.train(0, 18, seed=1)
    bad = next(e for e in whole.listing.entries if e.id == order[4].id)
    (tmp_path / bad.image).write_bytes((tmp_path / bad.image).read_bytes()[:40])
    source = open_captions(file, held_out=3)
    examples = source.train(0, 9, seed=1)
    assert [e.id for e in examples] == [e.id for e in (*order[:4], order[5], *order[5:9])]  # the next stands in
    assert [e.id for e in open_captions(file, held_out=3).train(4, 2, seed=1)] == [e.id for e in examples[4:6]]
    assert source.n_skipped == 1 and bad.image in source.skipped[0]


def test_an_image_that_is_held_out_and_cannot_be_read_is_known_at_once(tmp_path):
    file = captioned(tmp_path)
    whole = open_captions(file, held_out=3)
    held = [whole.listing.entries[i] for i in whole.held]
    (tmp_path / held[0].image).write_text("no image")
    source = open_captions(file, held_out=3)
    assert source.size == 2 and source.epoch == 9 and held[0].image in source.skipped[0]
    assert {e.id for e in source.probe(0, 2, 0)} == {e.id for e in held[1:]}


def test_none_that_can_be_read_is_an_error(tmp_path):
    file = captioned(tmp_path, 3)
    for image in (tmp_path / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(GradprobeError, match="none of the 2 training images can be read"):
        open_captions(file, held_out=1).train(0, 1, 0)


def test_images_are_upright_and_in_colour_also_when_they_come_again(tmp_path):
    turned = Image.new("L", (6, 3), 200)
    exif = turned.getexif()
    exif[0x0112] = 6  # lying on its side
    turned.save(tmp_path / "a.jpg", exif=exif)
    lines(tmp_path / "captions.jsonl", {"image": "a.jpg", "caption": "x"})
    source = open_captions(tmp_path, held_out=0)
    for example in source.train(0, 3, 0):
        image = _image(example)
        assert image.size == (3, 6) and image.mode == "RGB"
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(GradprobeError, match="can no longer be read"):
        _image(source.train(0, 1, 0)[0])


def test_prompts_have_the_placeholder_once(shared, tmp_path):
    assert {e.prompt for e in open_captions(shared(12)).train(0, 11, 0)} == {"<image> say :"}
    paint(tmp_path / "a.png", (5, 4), 0)
    lines(tmp_path / "captions.jsonl", {"image": "a.png", "caption": "x", "question": "Where?", "answer": "here"})
    (one,) = open_captions(tmp_path, held_out=0).train(0, 1, 0)
    assert one.prompt == f"<image>\n{PROMPT}" and one.question == "<image>\nWhere?" and one.answer == "here"


def test_a_models_own_chat_template_is_used():
    class Chatty:
        image_token, chat_template = "<|pad|>", "..."

        def apply_chat_template(self, messages, add_generation_prompt):
            assert add_generation_prompt
            (message,) = messages
            return "USER:" + "".join(c.get("text", "<|pad|>") for c in message["content"]) + " ANSWER:"

    chat = template_of(Chatty())
    assert chat("What?") == "USER:<|pad|>What? ANSWER:" and chat("<|pad|> mine") == "<|pad|> mine"
    assert template_of(None)("x") == placeholder_first("<image>")("x") == "<image>\nx"


def test_captions_are_those_of_their_images(shared):
    for example in open_captions(shared(12), held_out=0).train(0, 12, 0):
        pixels = np.asarray(_image(example))
        wanted = [
            CAPTIONS[i % 4] for i in range(12)
            if np.array_equal(np.random.default_rng(i).integers(0, 255, pixels.shape).astype(np.uint8), pixels)
        ]  # fmt: skip
        assert wanted == [example.caption]


def _image(example):
    return example.image() if callable(example.image) else example.image

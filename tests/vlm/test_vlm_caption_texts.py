"""Texts and images that a model cannot take: listed by line when the file is read, and never found in mid-run."""

import json
import os
import threading

import numpy as np
import pytest
from captioned import captioned, paint, trained, with_processor
from PIL import Image
from tiny_vlms import IMAGE, over

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.caption_files import Entry, list_captions
from gradprobe.vlm.captions import Example, check_of, open_captions
from gradprobe.vlm.deploy import inputs_of
from gradprobe.vlm.placeholders import Placeholders
from gradprobe.vlm.text import target_of
from gradprobe.vlm.vision_features import cached_features


class QwenTokenizer:
    all_special_tokens = ("<|endoftext|>", "<|im_end|>")

    @property
    def added_tokens_decoder(self) -> dict[int, str]:
        names = ("im_start", "box_start", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
        return {i: f"<|{name}|>" for i, name in enumerate(names)}


class Qwen:
    image_token, video_token, tokenizer, image_processor = "<|image_pad|>", "<|video_pad|>", QwenTokenizer(), None


def lines(folder, *given) -> None:
    paint(folder / "a.png", (40, 40), 0)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in given]
    (folder / "captions.jsonl").write_bytes(b"".join(line + b"\n" for line in raw))


def test_what_stands_for_pictures_is_read_off_the_processor():
    assert Placeholders.of(None) == Placeholders("<image>", ())
    assert Placeholders.of(with_processor("llava").processor) == Placeholders("<image>", ())
    marks = ("<|video_pad|>", "<|vision_end|>", "<|vision_pad|>", "<|vision_start|>")
    assert Placeholders.of(Qwen()) == Placeholders("<|image_pad|>", marks)


def test_captions_with_a_placeholder_are_passed_over_and_told_by_their_line(tmp_path):
    lines(
        tmp_path,
        {"image": "a.png", "caption": "fine"},
        {"image": "a.png", "caption": "a sign that says <image>"},
        {"image": "a.png", "caption": "x", "question": "Which?", "answer": "<image>"},
        {"image": "a.png", "caption": "x", "prompt": "<image> and <image>?"},
        {"image": "a.png", "caption": "x", "question": "<image> Which <image>?", "answer": "a"},
        {"image": "a.png", "caption": "y", "prompt": "<image> say :", "question": "<image> Which?", "answer": "a"},
        {"image": "a.png", "caption": "an < image > and an <img> are only words"},
    )
    captions = open_captions(tmp_path, held_out=0)
    assert [entry.caption[:4] for entry in captions.listing.entries] == ["fine", "y", "an <"]
    assert captions.skipped == (
        "line 2: the caption has the model's placeholder <image> in it",
        "line 3: the answer has the model's placeholder <image> in it",
        "line 4: the prompt has 2 times <image> for 1 image",
        "line 5: the question has 2 times <image> for 1 image",
    )


def test_each_model_has_its_own_placeholders(tmp_path):
    given = [
        {"image": "a.png", "caption": caption}
        for caption in ("an <image>", "<|image_pad|>", "<|vision_start|>", "<|video_pad|> x", "<|im_end|>")
    ]
    marked = "<|vision_start|><|image_pad|><|vision_end|>say"
    prompts = [marked, "<|vision_end|>say", "<|image_pad|><|video_pad|>"]
    lines(tmp_path, *given, *({"image": "a.png", "caption": "x", "prompt": prompt} for prompt in prompts))
    qwen = list_captions(tmp_path, placeholders=Placeholders.of(Qwen()))
    assert [(entry.caption, entry.prompt) for entry in qwen.entries] == [
        ("an <image>", None), ("<|im_end|>", None), ("x", marked)
    ]  # fmt: skip
    assert [fault.split(":")[0] for fault in qwen.faults] == [f"line {i}" for i in (2, 3, 4, 7, 8)]
    llava = list_captions(tmp_path, placeholders=Placeholders())
    assert llava.faults == ("line 1: the caption has the model's placeholder <image> in it",)


def test_a_text_beside_an_image_is_looked_at_too(tmp_path):
    for name, text in (("a", "fine"), ("b", "an <image>")):
        paint(tmp_path / f"{name}.png", (8, 8), 0)
        (tmp_path / f"{name}.txt").write_text(text)
    captions = open_captions(tmp_path, held_out=0)
    assert captions.skipped == ("b.png: the caption has the model's placeholder <image> in it",)


@over()
def test_training_passes_over_what_the_model_cannot_take(tmp_path, family):
    """The hidden line and the long picture once ended a run between two steps."""
    vlm, file = with_processor(family), captioned(tmp_path / "data")
    Image.new("RGB", (1, 400)).save(tmp_path / "data" / "long.png")
    more = [{"image": "images/0.png", "caption": "a <image> sign"}, {"image": "long.png", "caption": "a line"}]
    file.write_text(file.read_text() + "".join(json.dumps(line) + "\n" for line in more))
    captions = open_captions(file, held_out=4, processor=vlm.processor)
    result = trained(family, captions, tmp_path / "out", vlm=vlm, steps=5)
    assert result.steps == 5
    assert "line 13: the caption has the model's placeholder <image> in it" in result.skipped
    assert "long.png is 1 x 400, more than 200 times as long as wide" in result.skipped


class Fussy:
    """Refuses what is narrower than 20 pixels, as older processors of Qwen do below a patch."""

    def __init__(self):
        self.calls = 0

    def __call__(self, images, return_tensors):
        self.calls += 1
        if any(min(image.size) < 20 for image in images):
            raise ValueError("height and width must be\nlarger than factor:20")
        return {}


class FussyProcessor:
    image_token, tokenizer = "<image>", None

    def __init__(self):
        self.image_processor = Fussy()


@pytest.mark.parametrize("held_out", [0, 5])
def test_images_that_the_processor_refuses_are_passed_over_in_training_and_validation(tmp_path, held_out):
    processor = FussyProcessor()
    captions = open_captions(captioned(tmp_path), held_out=held_out, processor=processor)  # each third has 16 x 16
    examples = captions.train(0, 12, 0) + captions.probe(0, captions.size, 0)
    images = [np.asarray(e.image() if callable(e.image) else e.image) for e in examples]
    assert {image.shape for image in images} <= {(28, 28, 3), (56, 40, 3)}
    for i in range(12):
        captions.read(i)
    assert captions.n_skipped == 4
    assert "is 16 x 16, which the model's processor refuses (height and width must be larger" in captions.skipped[0]
    assert processor.image_processor.calls <= 3 * 8  # once a size, or once a thread that was as early


def test_what_is_trained_on_depends_on_the_images_and_not_on_when_one_was_refused(tmp_path):
    file = captioned(tmp_path)
    one, two = (open_captions(file, held_out=2, processor=FussyProcessor()) for _ in range(2))
    two.train(7, 9, 1)
    assert [e.id for e in one.train(0, 12, 1)] == [e.id for e in two.train(0, 12, 1)]


def test_the_processor_of_qwen_takes_and_refuses_as_it_does(tmp_path):
    check = check_of(with_processor("qwen2_5_vl").processor)
    check(Image.new("RGB", (3, 600)))  # 200 to 1 it takes
    with pytest.raises(GradprobeError, match=r"is 1 x 400, which .* refuses \(absolute aspect ratio must be smaller"):
        check(Image.new("RGB", (1, 400)))


def test_sources_of_ones_own_are_told_which_image_or_text_it_is():
    vlm = with_processor("qwen2_5_vl")
    long = Example(1, Image.new("RGB", (1, 400)), "<image> say :", "a long line")
    with pytest.raises(GradprobeError, match="the image of the caption 'a long line' is 1 x 400"):
        cached_features(vlm, [Example(0, Image.new("RGB", (40, 40)), "<image>", "fine"), long], {"data": "refused"})
    sign = Example(2, Image.new("RGB", (40, 40)), "<image> say :", "a <image> sign")
    with pytest.raises(UsageError, match="the text 'a <image> sign' has the model's placeholder <image> in it"):
        target_of(vlm, [sign], cached_features(vlm, [sign], {"data": "sign"}))


class Chat:
    """A processor that would fail later if it were given what it cannot take."""

    image_token, video_token, chat_template = "<|image_pad|>", "<|video_pad|>", "..."
    tokenizer = QwenTokenizer()

    def apply_chat_template(self, messages, add_generation_prompt):
        parts = messages[0]["content"]
        return "".join(part.get("text", "<|vision_start|><|image_pad|><|vision_end|>") for part in parts)

    def __call__(self, images, text, return_tensors):
        if any(min(image.size) < 20 for image in images or ()):
            raise ValueError("too\nnarrow")
        return {"text": text[0]}


def test_a_prompt_that_is_typed_is_looked_at_before_anything_is_read():
    vlm = with_processor("llava")
    vlm = type(vlm)(vlm.name, vlm.model, vlm.family, Chat())
    image = Image.new("RGB", (30, 30))
    unit = "<|vision_start|><|image_pad|><|vision_end|>"
    assert inputs_of(vlm, [image], "an <image> ?")["text"] == f"{unit}an <image> ?"
    assert inputs_of(vlm, [image, image], f"{unit} or {unit} ?")["text"] == f"{unit} or {unit} ?"
    for prompt, message in (
        (f"{unit}{unit}", r"has 2 times <\|image_pad\|> for 1 image;"),
        ("<|vision_start|> ?", r"placeholder <\|vision_start\|>"),
        ("<|video_pad|> ?", r"placeholder <\|video_pad\|>"),
        (f"{unit} <|video_pad|>", r"placeholder <\|video_pad\|>"),
    ):
        with pytest.raises(UsageError, match=rf"the prompt .*{message}"):
            inputs_of(vlm, [image], prompt)
    with pytest.raises(UsageError, match=r"the processor of .* refuses prompt or images \(8 x 300\): too narrow"):
        inputs_of(vlm, [Image.new("RGB", (8, 300))], "?")


# Lines


def test_keys_that_come_twice_and_texts_that_are_none_are_told(tmp_path):
    lines(
        tmp_path,
        b'{"image": "a.png", "caption": "one", "caption": "two"}',
        b'{"image": "a.png", "image": "b.png", "caption": "one"}',
        {"image": "a.png", "caption": ["one", "two"]},
        {"image": "a.png", "caption": None},
        {"image": "a.png", "caption": 7},
        b'{"image": "a.png", "caption": "half \\ud800"}',
        b'{"image": "a.png", "caption": "x", "answer": "\\udfff"}',
        b'{"image": "a.png", "caption": "\xe9"}',
        b'{"image": "a.png", "caption": "' + b"9" * 10 + b'", "n": ' + b"9" * 5000 + b"}",
        {"image": ["a.png"], "caption": "x"},
        {"image": "a.png", "caption": "fine \U0001f600"},
    )
    listing = list_captions(tmp_path)
    assert [entry.caption for entry in listing.entries] == ["fine \U0001f600"]
    assert [fault.partition(": ")[2] for fault in listing.faults] == [
        "caption twice", "image twice", "no caption", "no caption", "no caption", "caption is no proper text",
        "answer is no proper text", "no UTF-8 text", "no JSON", "no image",
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_of_another_encoding_is_told_as_a_whole(tmp_path, encoding):
    lines(tmp_path)
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "caption": "x"}\n', encoding=encoding)
    with pytest.raises(UsageError, match="is UTF-16; save it as UTF-8"):
        list_captions(tmp_path)


def test_marks_of_windows_editors_are_no_part_of_a_text(tmp_path):
    paint(tmp_path / "a.png", (8, 8), 0)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa dog\r\n")
    assert list_captions(tmp_path).entries == (Entry("a.png", "a dog"),)
    lines(tmp_path, b'\xef\xbb\xbf{"image": "a.png", "caption": "a cat"}\r', b"\r", b"")
    assert list_captions(tmp_path).entries == (Entry("a.png", "a cat"),)


def test_paths_may_be_absolute_or_lead_elsewhere_and_one_image_has_one_name(tmp_path):
    paint(tmp_path / "other" / "b.png", (8, 8), 0)
    (tmp_path / "data").mkdir()
    absolute = str(tmp_path / "other" / "b.png")
    paths = ("./a.png", "a.png", ".//a.png", "../other/b.png", absolute, "~/a.png", "", "..", "a.png/", "a.png\0")
    lines(tmp_path / "data", *({"image": path, "caption": "x"} for path in paths))
    listing = list_captions(tmp_path / "data")
    assert [entry.image for entry in listing.entries] == ["a.png", "../other/b.png", absolute]
    same = "the same image and caption as line 1"
    assert [fault.partition(": ")[2] for fault in listing.faults] == [
        same, same, f"no image {tmp_path / 'data' / '~/a.png'}", "no image", f"no image {tmp_path / 'data' / '..'}",
        same, "no image",
    ]  # fmt: skip


def test_no_pipe_is_waited_for(tmp_path):
    paint(tmp_path / "a.png", (8, 8), 0)
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe.jsonl")
    messages = []

    def read(path):
        try:
            list_captions(path)
        except GradprobeError as error:
            messages.append(str(error))

    for path, message in (
        (tmp_path, "a.txt cannot be read (is no regular file)"),
        (tmp_path / "pipe.jsonl", "regular"),
    ):
        thread = threading.Thread(target=read, args=(path,), daemon=True)
        thread.start()
        thread.join(60)
        assert message in messages.pop()


def test_the_tests_tokenizer_makes_a_picture_of_a_placeholder():
    assert IMAGE in with_processor("llava").processor.tokenizer("a<image>b")["input_ids"]

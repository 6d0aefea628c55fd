"""Families whose pictures are cut into tiles, with their own processors: tiles of a picture share a budget."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vlms import IMAGE, tiny

from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.costs.dimensions import layout_of
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner

SIZES = ((30, 45), (64, 20), (16, 16))  # widths and heights
MARKS = ("<fake_token_around_image>", "<global-img>", "<img>", "</img>", "<video>")
PLACES = [f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)]
NAMES = {"context_image_token": "<image>", "start_image_token": "<img>", "end_image_token": "</img>"}
NAMES["video_token"] = "<video>"
PROMPTS = {
    "one": (["say <image> what"], [[0]]),
    "side by side": (["<image><image> what"], [[0, 0]]),
    "mixed rows": (["a <image> b", "c <image> d e <image> f g", "no picture"], [[0], [1, 2], []]),
}
TILED = {"internvl": "alone", "llava_onevision": "alone", "idefics3": "alone", "smolvlm": "alone"}
CASES = [*((family, False) for family in TILED), ("idefics3", True)]


def tokenizer_of(pieces: bool):
    """One token a word; with pieces the words before a tile are several tokens each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "?", *"abcdefg", "say", "what", "no", "picture", *MARKS]
    words += [] if pieces else PLACES
    vocabulary = {word: number for number, word in enumerate(words)} | {"<image>": IMAGE}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [MARKS[0], *([] if pieces else [MARKS[1], *PLACES])]
    named = NAMES | {f"word_{number}": word for number, word in enumerate(special)}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", unk_token="?", padding_side="left",
        extra_special_tokens=named,
    )  # fmt: skip


def opened(family: str, monkeypatch, pieces: bool = False) -> VLM:
    """A tiny model with its family's own processor."""
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # for videos alone
    vlm = tiny(family)
    _, images = vlm.family.tiny()
    words = tokenizer_of(pieces)
    if family == "internvl":
        processor = transformers.InternVLProcessor(
            images, words, transformers.InternVLVideoProcessor(), image_seq_length=4
        )
    elif family == "llava_onevision":
        videos = transformers.LlavaOnevisionVideoProcessor()
        processor = transformers.LlavaOnevisionProcessor(
            images, words, videos, num_image_tokens=16, vision_feature_select_strategy="full"
        )
    elif family == "idefics3":
        processor = transformers.Idefics3Processor(images, words, image_seq_len=4)
    else:
        processor = transformers.SmolVLMProcessor(images, words, transformers.SmolVLMVideoProcessor(), image_seq_len=4)
    return VLM.of(vlm.model, processor, vlm.name)


def pictures(rows) -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [SIZES[number] for row in rows for number in row]
    return [Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)) for width, height in sizes]


def read(vlm: VLM, text, rows):
    images = pictures(rows)
    if vlm.family.name in ("idefics3", "smolvlm", "llava_onevision"):  # as the chat template gives them: row by row
        flat = iter(images)
        images = [[next(flat) for _ in row] for row in rows if row or vlm.family.name != "llava_onevision"]
    return vlm.processor(images=images, text=text, padding=True, return_tensors="pt")


def expected(vlm: VLM, row) -> tuple[int, ...]:
    """Visual tokens of each picture of a row."""
    layouts = [layout_of(vlm.model.config, SIZES[number][::-1]) for number in row]
    if vlm.family.name == "llava_onevision" and len(row) > 1:
        return (16,) * len(row)
    return tuple(layout.tokens for layout in layouts)


@pytest.mark.parametrize(("family", "pieces"), CASES)
@pytest.mark.parametrize("case", PROMPTS)
def test_pictures_of_the_processor_have_their_tiles_and_everything_kept_is_the_models_own(
    family, pieces, case, monkeypatch
):
    vlm, (text, rows) = opened(family, monkeypatch, pieces), PROMPTS[case]
    inputs = read(vlm, text, rows)
    pruned = Pruner(vlm, part("scorer", "mlp:width=8").make(vlm.dim, 0), Budget(k=999))
    features = vlm.vision_features(inputs)
    prompt = vlm.prompt(inputs, features)
    assert prompt.counts == tuple(expected(vlm, row) for row in rows)
    for own, tokens in zip(features.inputs, features.tokens, strict=True):
        assert sum(high * wide for high, wide in vlm.family.grids(vlm.model.config, own)) == len(tokens)
    real = inputs["attention_mask"] > 0
    with torch.no_grad():
        torch.testing.assert_close(pruned.logits(inputs)[real], vlm.model(**inputs).logits[real], atol=1e-5, rtol=0)
    few = Pruner(vlm, pruned.scorer, Budget(k=3))
    assert [[len(image) for image in row] for row in few.kept(inputs)] == [[3] * len(row) for row in rows]


@pytest.mark.parametrize("family", TILED)
def test_beams_are_those_of_the_whole_model_with_dropped_keys_masked(family, monkeypatch):
    """As the keys of dropped tokens are masked from the first layer on, the language model never reads them."""
    vlm = opened(family, monkeypatch)
    inputs = read(vlm, *PROMPTS["one"])
    pruned = Pruner(vlm, "norm", Budget(k=5))
    options = {"do_sample": False, "num_beams": 3, "suppress_tokens": [IMAGE]}
    slot, ((kept,),) = pruned._images(inputs).prompt.slot, pruned.kept(inputs)
    mask = inputs["attention_mask"] * ((slot < 0) | torch.isin(slot, kept))
    given = dict(inputs) | {"attention_mask": mask, "position_ids": torch.arange(mask.shape[1])[None]}
    with torch.no_grad():
        own = vlm.model.generate(**given, max_new_tokens=4, **options)
    assert torch.equal(pruned.generate(inputs, max_new_tokens=4, options=options), own)
    assert int(mask.sum()) < int(inputs["attention_mask"].sum())


@pytest.mark.parametrize("family", ["internvl", "idefics3", "smolvlm"])
def test_what_training_reads_is_what_the_processor_writes(family, monkeypatch):
    """A caption's prompt has the same ids and pixels as the processor makes of the same text and picture."""
    vlm = opened(family, monkeypatch)
    for number in range(len(SIZES)):
        inputs = read(vlm, ["say <image> what"], [[number]])
        made = vlm.family.processed(vlm.processor, pictures([[number]]))
        features = vlm.vision_features(made)
        written = vlm.family.written(vlm.processor, features.inputs[0], len(features.slots[0]))
        ids = vlm.processor.tokenizer(f"say {written} what")["input_ids"]
        assert ids == inputs["input_ids"][0].tolist() and torch.equal(made["pixel_values"], inputs["pixel_values"])


@pytest.mark.parametrize("family", ["internvl", "idefics3", "smolvlm"])
def test_layouts_are_those_of_the_image_processor(family, monkeypatch):
    vlm, random = opened(family, monkeypatch), np.random.default_rng(1)
    for height, width in [(1, 200), (200, 1), (97, 97), *random.integers(1, 300, (60, 2)).tolist()]:
        layout = layout_of(vlm.model.config, (height, width))
        made = vlm.family.processed(vlm.processor, [Image.new("RGB", (width, height), (9, 99, 199))])
        assert layout.tiles == made["pixel_values"].flatten(0, -4).shape[0], (height, width)


def test_tiles_without_a_text_are_pictures_of_their_own_and_are_joined_once_there_is_one(monkeypatch):
    vlm = opened("internvl", monkeypatch)
    inputs = read(vlm, *PROMPTS["mixed rows"])
    whole = vlm.vision_features(inputs)
    apart = vlm.vision_features({"pixel_values": inputs["pixel_values"]})
    assert {len(tokens) for tokens in apart.tokens} == {4}
    joined = vlm.by_picture(apart, inputs)
    assert [len(tokens) for tokens in joined.tokens] == [len(tokens) for tokens in whole.tokens]
    for name in ("tokens", "slots", "rows"):
        assert all(map(torch.equal, getattr(joined, name), getattr(whole, name)))


@pytest.mark.parametrize("family", ["internvl", "idefics3"])
def test_a_text_of_other_pictures_is_refused(family, monkeypatch):
    vlm = opened(family, monkeypatch)
    one, two = (read(vlm, *PROMPTS[case]) for case in ("one", "side by side"))
    with pytest.raises(UsageError, match="make text and images with the processor of this model"):
        vlm.vision_features({**one, "input_ids": two["input_ids"]})


def test_pictures_whose_tokens_the_model_blends_are_refused(monkeypatch):
    vlm = opened("llava_onevision", monkeypatch)
    vlm.model.config.vision_aspect_ratio = vlm.processor.vision_aspect_ratio = "anyres_max_1"
    inputs = read(vlm, ["say <image> what"], [[0]])
    with torch.no_grad():
        assert vlm.model(**inputs).logits.isfinite().all()  # the model itself takes it
    with pytest.raises(UsageError, match=r"45 x 30 has 4 tiles.*thumbnail\(\(28, 28\)\)"):
        vlm.vision_features(inputs)
    with pytest.raises(UsageError, match="blends"):
        layout_of(vlm.model.config, (45, 30))
    several = read(vlm, ["<image> a <image>"], [[0, 1]])  # of one tile each: nothing is blended
    assert [len(tokens) for tokens in vlm.vision_features(several).tokens] == [16, 16]


def test_videos_are_refused(monkeypatch):
    vlm = opened("llava_onevision", monkeypatch)
    inputs = read(vlm, *PROMPTS["one"])
    with pytest.raises(UsageError, match="videos"):
        vlm.prompt({**inputs, "pixel_values_videos": torch.zeros(1)}, vlm.vision_features(inputs))

"""The embedded vision-language model: its files, what it can do, and how it is trained."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import gradprobe.vlm.model as model_module
import gradprobe.vlm.training.pictures as module
from gradprobe.data.pictures import as_bytes, objects_of, pictures
from gradprobe.data.pictures_text import (
    KINDS,
    WORDS,
    caption,
    captions,
    prompt_of_caption,
    prompt_of_question,
    questions,
)
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.training.from_scratch import Part
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.scenes import FOLDER, ID, scenes_processor
from gradprobe.vlm.training.pictures import Recipe, fresh_model, trainer
from gradprobe.vlm.training.pictures_card import BUDGETS, CHECKPOINT, evaluate, train_pictures
from gradprobe.vlm.training.pictures_loss import (
    CELLS,
    GROUPS,
    LATER_QUESTIONS,
    TEXTS,
    caption_line,
    compounds,
    label_loss,
    lines,
    lines_of,
    text_loss,
    truth,
    visual_tokens,
)

SMALL = Recipe(apart=2, words=2, together=2, tower_batch=4, batch=3, save_every=3, warmup=2, relations_from=3)


@pytest.fixture(scope="module")
def vlm():
    return open_vlm("scenes-vlm")


@pytest.fixture(scope="module")
def card():
    return json.loads((FOLDER / "card.json").read_text())


@pytest.fixture(scope="module")
def fresh():
    return fresh_model(0).eval()


def inputs_of(processor, split, ids, prompts):
    images = [Image.fromarray(image) for image in as_bytes(pictures(split, ids).images)]
    return processor(images=images, text=prompts, padding=True, return_tensors="pt")


def generated(vlm, inputs, count):
    with torch.inference_mode():
        ids = vlm.model.generate(**inputs, max_new_tokens=count, do_sample=False)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in vlm.processor.batch_decode(new, skip_special_tokens=True)]


def test_the_files_are_small_and_the_card_is_theirs(card):
    import hashlib

    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 12e6
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card["recipe"] == vars(Recipe())
    assert card["steps_done"] == Recipe().steps


def test_the_card_says_that_it_can_and_that_pruning_hurts(card):
    shares = card["accuracy"]
    assert card["held_out_pictures"] >= 1000 * len(KINDS)
    assert min(shares["unpruned"][kind] for kind in KINDS) >= 0.9
    assert shares["unpruned"]["caption"] >= 0.9
    assert shares["random_11"]["average"] <= shares["unpruned"]["average"] - 0.15
    for k in BUDGETS:
        assert shares[f"relevant_{k}"]["average"] > shares[f"random_{k}"]["average"]


def test_what_the_card_says_can_be_measured_again(vlm, card):
    for rule, shares in evaluate(vlm.model, 100, budgets=(11,)).items():
        for name in ("average", "caption"):
            assert abs(shares[name] - card["accuracy"][rule][name]) < 0.1, (rule, name)


def test_it_opens_with_plain_transformers():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(FOLDER)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.dtype == torch.float32
    assert AutoProcessor.from_pretrained(FOLDER).tokenizer.get_vocab() == ID


def test_it_answers_and_captions_through_processor_and_generate(vlm):
    ids = range(40)
    queries = questions("heldout", ids)
    inputs = inputs_of(vlm.processor, "heldout", ids, [prompt_of_question(q.text) for q in queries])
    assert ((inputs["input_ids"] == ID["<image>"]).sum(dim=1) == 100).all()
    answers = generated(vlm, inputs, 3)  # the end comes after the answer
    assert np.mean([text == q.answer for text, q in zip(answers, queries, strict=True)]) >= 0.85
    said = generated(vlm, inputs_of(vlm.processor, "heldout", ids, [prompt_of_caption()] * len(ids)), 40)
    words = [
        one == two
        for text, right in zip(said, captions("heldout", ids), strict=True)
        for one, two in zip(text.split(), right.split(), strict=False)
    ]
    assert np.mean(words) >= 0.85


def test_the_processor_gives_the_pixels_and_words_of_the_training(vlm):
    inputs = inputs_of(
        vlm.processor, "train", [3, 8], [prompt_of_caption(), prompt_of_question("is there a red six ?")]
    )
    assert torch.allclose(inputs["pixel_values"], torch.from_numpy(pictures("train", [3, 8]).images), atol=1e-5)
    text = " ".join(WORDS)
    assert vlm.processor.tokenizer(text)["input_ids"] == [ID["<s>"], *(ID[word] for word in WORDS)]
    assert scenes_processor().tokenizer.get_vocab() == vlm.processor.tokenizer.get_vocab()


def test_visual_tokens_are_those_of_the_model_and_before_the_projector_128_wide(vlm):
    images = torch.from_numpy(pictures("heldout", [0, 1]).images)
    with torch.inference_mode():
        theirs = torch.stack(list(vlm.model.model.get_image_features(pixel_values=images).pooler_output))
        assert torch.allclose(visual_tokens(vlm.model, images), theirs, atol=1e-5)
    features = vlm.vision_features({"pixel_values": images})
    assert [tuple(tokens.shape) for tokens in features.tokens] == [(100, 128)] * 2
    assert vlm.dim == 128


def test_lines_are_read_as_if_each_were_alone(fresh):
    """Loss of caption and questions in one sequence = as separate prompts through the whole model."""
    ids = range(2)
    objects = objects_of("train", ids)
    data = pictures("train", ids)
    images, where = torch.from_numpy(data.images), torch.arange(CELLS).expand(2, CELLS)
    queries = questions("train", ids)
    rows = [
        [caption_line(o), (q.kind, f"{q.text} answer :", q.answer), caption_line(o)]
        for o, q in zip(objects, queries, strict=True)
    ]
    text = lines_of(rows)
    assert len(text.ids[0]) == len(text.target[0])
    captured = {}
    head = fresh.model.language_model.norm.register_forward_hook(lambda m, a, out: captured.update(out=out))
    with torch.inference_mode():
        text_loss(fresh, visual_tokens(fresh, images), where, text)
        head.remove()
        ours = captured["out"][:, 1 + CELLS :] @ fresh.lm_head.weight.T
        for b, row in enumerate(rows):
            for number, (_, given, wanted) in enumerate(row):
                words = [ID["<s>"], *[ID["<image>"]] * 100, *(ID[word] for word in f"{given} {wanted}".split())]
                theirs = fresh(input_ids=torch.tensor([words]), pixel_values=images[b : b + 1]).logits[0, 101:]
                assert torch.allclose(ours[b, text.line[b] == number], theirs, atol=1e-4)


def test_only_what_is_to_be_told_counts():
    text = lines(objects_of("train", range(3)), range(3), 7, LATER_QUESTIONS)
    for ids, target, line, kind in zip(text.ids, text.target, text.line, text.kind, strict=True):
        for number in range(1 + len(LATER_QUESTIONS)):
            here = line == number
            wanted = target[here]
            first = int((wanted != -100).nonzero()[0])
            assert ids[here][first] == ID[":"]
            assert wanted[-1] == ID["</s>"]
            assert torch.equal(ids[here][first + 1 :], wanted[first:-1])
            assert set(kind[here][first:].tolist()) == {TEXTS.index((["caption", *LATER_QUESTIONS])[number])}
        assert (target[line == -1] == -100).all()


def test_the_words_of_a_patch_are_those_of_its_object():
    data = pictures("train", range(20))
    words = truth(data.objects).numpy()
    assert np.array_equal(words[..., 0] != ID["<nothing>"], data.relevant)
    for b, objects in enumerate(data.objects):
        for four, digit in zip(words[b][data.relevant[b]], data.digit_of[b][data.relevant[b]], strict=True):
            (o,) = (o for o in objects if o.digit == digit)
            assert " ".join(WORDS[word - ID[WORDS[0]]] for word in four) in caption_words(o)


def caption_words(o):
    """The same four words in the captions' order and in the truth's."""
    colour, digit, row, column = caption([o]).removesuffix(" .").split()
    return [f"{digit} {colour} {row} {column}"]


def test_perfect_tokens_have_no_label_loss_and_shuffled_ones_do(fresh):
    words = truth(objects_of("train", range(5)))
    table = fresh.model.language_model.embed_tokens.weight
    with torch.no_grad():
        perfect = compounds(words, table)
        loss, right = label_loss(perfect, words, table)
        other, wrong = label_loss(perfect[torch.arange(-1, 4)], words, table)
    assert loss < 0.02
    assert torch.equal(right[0], right[1])
    assert other > 1
    assert (wrong[0] < 0.5 * wrong[1]).all()
    assert [len(group) for group in GROUPS] == [10, 4, 9, 9]


def run(recipe, checkpoint, stop=None):
    steps = []
    for step in trainer(recipe).run(checkpoint):
        steps.append(step)
        if step.done == stop:
            break
    return steps


def weights(checkpoint):
    tensors = Checkpoint.read(checkpoint).tensors
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def test_stopped_and_begun_again_it_ends_with_the_same_weights(tmp_path):
    whole = run(SMALL, tmp_path / "whole.safetensors")
    assert len(whole) == SMALL.steps
    run(SMALL, tmp_path / "parts.safetensors", stop=4)  # the last checkpoint is of step 3
    rest = run(SMALL, tmp_path / "parts.safetensors")
    assert [step.done for step in rest] == [4, 5, 6]
    assert [step.loss for step in rest] == [step.loss for step in whole[3:]]
    one, two = weights(tmp_path / "whole.safetensors"), weights(tmp_path / "parts.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_each_stage_teaches_its_parts_and_never_the_words(tmp_path):
    before = fresh_model(SMALL.seed).state_dict()

    def moved(recipe, stop):
        run(replace(recipe, save_every=1), tmp_path / f"{stop}.safetensors", stop)
        after = weights(tmp_path / f"{stop}.safetensors")
        return {name for name in after if not torch.equal(before[name], after[name])}

    apart = moved(SMALL, 1)
    words = {name for name in before if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    assert words
    assert not words & moved(SMALL, 5)
    for part in ("vision_tower", "projector", "language_model"):
        assert any(part in name for name in apart)


def test_training_ends_in_a_folder_that_opens_and_no_checkpoint(tmp_path):
    run(SMALL, tmp_path / CHECKPOINT, stop=4)
    half = {name: value.half().float() for name, value in weights(tmp_path / CHECKPOINT).items()}
    made = train_pictures(SMALL, tmp_path, held_out=8)
    assert made == json.loads((tmp_path / "card.json").read_text())
    assert made["held_out_pictures"] == 8
    assert made["steps_done"] == SMALL.steps
    assert not (tmp_path / CHECKPOINT).exists()
    opened = open_vlm(str(tmp_path)).model.state_dict()
    assert set(half) < set(opened)  # words are frozen
    assert sum(not torch.equal(opened[name], half[name]) for name in half) > 100  # it went on from the checkpoint


def test_training_leaves_the_random_state_alone(tmp_path):
    state = torch.get_rng_state()
    run(SMALL, tmp_path / "c.safetensors", stop=3)
    assert torch.equal(state, torch.get_rng_state())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    run(SMALL, tmp_path / "c.safetensors", stop=3)
    with pytest.raises(UsageError, match=r"batch 3 there, 4 here.*--restart"):
        run(replace(SMALL, batch=4), tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(GradprobeError, match="is no checkpoint that can be read"):
        run(SMALL, tmp_path / "c.safetensors")


def test_a_loss_that_is_not_finite_stops_training(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_labels_part", lambda *a: Part((), float("nan"), ()))
    with pytest.raises(GradprobeError, match="loss is nan at step 0"):
        run(SMALL, tmp_path / "c.safetensors")


@pytest.mark.parametrize("settings", [{"apart": 0}, {"words": 0}, {"batch": 0}, {"seed": -1}])
def test_a_recipe_of_nothing_is_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        Recipe(**settings)


def test_without_its_files_it_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "FOLDER", tmp_path)
    with pytest.raises(GradprobeError, match="train-scenes"):
        open_vlm("scenes-vlm")

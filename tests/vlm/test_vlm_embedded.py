"""The embedded vision-language models: their files, what they can do, and how they are trained."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
from gradprobe.embedded import vlms
from gradprobe.embedded.vlms import PHOTOS, SCENES, VLMS, embedded_folder, training_command
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.training.from_scratch import Part
from gradprobe.vlm.embedded import ID, SHAPES, digits_processor
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.training.background import LENGTH, OneWord, Texture
from gradprobe.vlm.training.pictures import Recipe, drawing, fresh_model, recipe_of, trainer
from gradprobe.vlm.training.pictures_accuracy import BUDGETS, evaluate, token_diversity
from gradprobe.vlm.training.pictures_card import train_pictures
from gradprobe.vlm.training.pictures_loss import (
    CELLS,
    GROUPS,
    LATER_QUESTIONS,
    TEXTS,
    caption_line,
    label_loss,
    lines,
    lines_of,
    targets,
    text_loss,
    truth,
    visual_tokens,
)

SMALL = Recipe(apart=2, words=2, together=2, tower_batch=4, batch=3, save_every=3, warmup=2, relations_from=3)
RECIPES = {SCENES: SMALL, f"{PHOTOS}-small": replace(SMALL, model=f"{PHOTOS}-small", few_from=5)}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
THERE = [name for name, folder in VLMS.items() if (folder / "model.safetensors").exists()]


@pytest.fixture(scope="module", params=THERE)
def vlm(request):
    return open_vlm(request.param)


@pytest.fixture
def card(vlm):
    return json.loads((VLMS[vlm.name] / "card.json").read_text())


@pytest.fixture(scope="module")
def fresh():
    return fresh_model(SCENES, 0).eval()


def inputs_of(vlm, split, ids, prompts):
    images = [Image.fromarray(image) for image in as_bytes(drawing(vlm.name)(split, ids).images)]
    return vlm.processor(images=images, text=prompts, padding=True, return_tensors="pt")


def generated(vlm, inputs, count):
    with torch.inference_mode():
        ids = vlm.model.generate(**inputs, max_new_tokens=count, do_sample=False)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in vlm.processor.batch_decode(new, skip_special_tokens=True)]


def test_the_quick_one_and_two_sizes_are_there():
    assert {SCENES, PHOTOS, f"{PHOTOS}-small"} <= set(THERE) and set(SHAPES) == set(VLMS)


def test_the_files_are_small_and_the_card_is_theirs(vlm, card):
    import hashlib

    weights = VLMS[vlm.name] / "model.safetensors"
    assert weights.stat().st_size <= 12e6
    assert card["model"] == vlm.name and card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card["recipe"] == vars(recipe_of(vlm.name, card["recipe"]["seed"]))
    assert card["steps_done"] == recipe_of(vlm.name, 0).steps
    assert card["command"].startswith(training_command(vlm.name, card["recipe"]["seed"]))


def test_the_card_says_that_it_can_and_that_pruning_hurts(card):
    shares = card["accuracy"]
    assert card["held_out_pictures"] >= 1000 * len(KINDS)
    assert min(shares["unpruned"][kind] for kind in KINDS) >= 0.9
    assert shares["unpruned"]["caption"] >= 0.9
    assert shares["random_11"]["average"] <= shares["unpruned"]["average"] - 0.15
    for k in BUDGETS:
        assert shares[f"relevant_{k}"]["average"] > shares[f"random_{k}"]["average"]
        assert shares[f"one_each_{k}"]["covered"] >= shares[f"relevant_{k}"]["covered"]


def test_what_the_card_says_can_be_measured_again(vlm, card):
    for rule, shares in evaluate(vlm.model, drawing(vlm.name), 100, budgets=(11,)).items():
        for name in ("average", "caption", "covered"):
            assert abs(shares[name] - card["accuracy"][rule][name]) < 0.12, (rule, name)
    for name, value in token_diversity(vlm.model, drawing(vlm.name)).items():
        assert value == pytest.approx(card["diversity"][name], rel=1e-2, abs=1e-3)


def test_the_table_of_the_documentation_is_the_cards():
    """Retention, mean of the kinds, and coverage: recomputed from the accuracies of the two cards."""
    text = Path("docs/photos-vlm.md").read_text()
    rows = dict(re.findall(r"^\| ([aDto][^|]+) \| ([\d. |%]+) \|$", text, re.MULTILINE))
    shown = {name: [float(cell.strip(" %")) for cell in cells.split("|")] for name, cells in rows.items()}
    rules = {
        "at random": "random", "DivPrune": "divprune", "the most attended": "attention", "those of digits": "relevant",
        "the longest before the projector": "norm", "the longest behind it": "longest",
        "the shortest behind it": "shortest", "one of each digit": "one_each",
    }  # fmt: skip
    accuracy = {name: json.loads((VLMS[name] / "card.json").read_text())["accuracy"] for name in THERE}

    def retention(model, rule):
        return 100 * np.mean([accuracy[model][rule][kind] / accuracy[model]["unpruned"][kind] for kind in KINDS])

    for name, rule in rules.items():
        *kept, covered, plain = shown[name]
        assert kept == pytest.approx([retention(PHOTOS, f"{rule}_{k}") for k in BUDGETS], abs=0.06)
        assert covered == pytest.approx(100 * accuracy[PHOTOS][f"{rule}_11"]["covered"], abs=0.51)
        assert plain == pytest.approx(retention(SCENES, f"{rule}_11"), abs=0.06)
    order = ("random", "divprune", "attention", "norm", "longest", "shortest", "relevant", "one_each")
    for model in (f"{PHOTOS}-small", PHOTOS):
        (cells,) = re.findall(rf"^\| `{model}` \| ([\d. |]+) \|$", text, re.MULTILINE)
        told = [float(cell) for cell in cells.split("|")]
        assert told == pytest.approx([retention(model, f"{rule}_11") for rule in order], abs=0.06)


def test_a_misspelt_name_is_not_asked_of_a_hub(monkeypatch):
    monkeypatch.setattr("gradprobe.vlm.model.hub_or_cache", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(UsageError, match="no model is called 'photo-vlm'; did you mean 'photos-vlm'"):
        open_vlm("photo-vlm")


def test_it_opens_with_plain_transformers(vlm):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(VLMS[vlm.name])
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.dtype == torch.float32
    assert AutoProcessor.from_pretrained(VLMS[vlm.name]).tokenizer.get_vocab() == ID


def test_it_answers_and_captions_through_processor_and_generate(vlm):
    ids = range(40)
    queries = questions("heldout", ids)
    inputs = inputs_of(vlm, "heldout", ids, [prompt_of_question(q.text) for q in queries])
    assert ((inputs["input_ids"] == ID["<image>"]).sum(dim=1) == 100).all()
    answers = generated(vlm, inputs, 3)  # the end comes after the answer
    assert np.mean([text == q.answer for text, q in zip(answers, queries, strict=True)]) >= 0.85
    said = generated(vlm, inputs_of(vlm, "heldout", ids, [prompt_of_caption()] * len(ids)), 40)
    words = [
        one == two
        for text, right in zip(said, captions("heldout", ids), strict=True)
        for one, two in zip(text.split(), right.split(), strict=False)
    ]
    assert np.mean(words) >= 0.85


def test_the_processor_gives_the_pixels_and_words_of_the_training(vlm):
    inputs = inputs_of(vlm, "train", [3, 8], [prompt_of_caption(), prompt_of_question("is there a red six ?")])
    assert torch.allclose(
        inputs["pixel_values"], torch.from_numpy(drawing(vlm.name)("train", [3, 8]).images), atol=1e-5
    )
    text = " ".join(WORDS)
    assert vlm.processor.tokenizer(text)["input_ids"] == [ID["<s>"], *(ID[word] for word in WORDS)]
    assert digits_processor().tokenizer.get_vocab() == vlm.processor.tokenizer.get_vocab()


def test_visual_tokens_are_those_of_the_model_and_before_the_projector_as_wide_as_the_tower(vlm):
    images = torch.from_numpy(drawing(vlm.name)("heldout", [0, 1]).images)
    with torch.inference_mode():
        theirs = torch.stack(list(vlm.model.model.get_image_features(pixel_values=images).pooler_output))
        assert torch.allclose(visual_tokens(vlm.model, images), theirs, atol=1e-5)
    features = vlm.vision_features({"pixel_values": images})
    assert [tuple(tokens.shape) for tokens in features.tokens] == [(100, vlm.dim)] * 2
    assert vlm.dim == SHAPES[vlm.name].width


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


@pytest.mark.parametrize("kind", [OneWord, Texture.fitted])
def test_perfect_tokens_have_no_label_loss_and_shuffled_ones_do(fresh, kind):
    data = pictures("train", range(5))
    words, table = truth(data.objects), fresh.model.language_model.embed_tokens.weight
    with torch.no_grad():
        background = kind(table)
        perfect = targets(words, table, background.of(data.images))
        loss, right = label_loss(perfect, words, table, data.images, background)
        other, wrong = label_loss(perfect[torch.arange(-1, 4)], words, table, data.images, background)
    assert loss < (0.02 if kind is OneWord else 0.5)  # midway between words, a texture is not without doubt
    assert torch.equal(right[0], right[1])
    assert other > loss + 1
    assert (wrong[0] < 0.5 * wrong[1]).all()
    assert [len(group) for group in GROUPS] == [10, 4, 9, 9]


@pytest.mark.parametrize("name", [PHOTOS, f"{PHOTOS}-small"])
def test_textures_tell_patches_apart_and_say_no_word(name):
    table = fresh_model(name, 0).model.language_model.embed_tokens.weight.detach()
    texture = Texture.fitted(table)
    images = drawing(name)("train", range(3)).images
    target = texture.of(images)
    assert (target @ table.T).abs().max() < 1e-5
    torch.testing.assert_close(target.norm(dim=-1), torch.full(target.shape[:2], LENGTH))
    assert float(np.median(np.corrcoef(target[0].numpy())[~np.eye(100, dtype=bool)])) < 0.5
    drawn = texture.drawn(2, 30, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=-1), torch.full((2, 30), LENGTH))
    assert torch.equal(texture.of(images[1:]), target[1:]) and torch.equal(Texture.fitted(table).bank, texture.bank)


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


@recipes
def test_stopped_and_begun_again_it_ends_with_the_same_weights(recipe, tmp_path):
    whole = run(recipe, tmp_path / "whole.safetensors")
    assert len(whole) == recipe.steps
    run(recipe, tmp_path / "parts.safetensors", stop=4)  # the last checkpoint is of step 3
    rest = run(recipe, tmp_path / "parts.safetensors")
    assert [step.done for step in rest] == [4, 5, 6]
    assert [step.loss for step in rest] == [step.loss for step in whole[3:]]
    one, two = weights(tmp_path / "whole.safetensors"), weights(tmp_path / "parts.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


@recipes
def test_each_stage_teaches_its_parts_and_never_the_words(recipe, tmp_path):
    before = fresh_model(recipe.model, recipe.seed).state_dict()

    def moved(recipe, stop):
        run(replace(recipe, save_every=1), tmp_path / f"{stop}.safetensors", stop)
        after = weights(tmp_path / f"{stop}.safetensors")
        return {name for name in after if not torch.equal(before[name], after[name])}

    apart = moved(recipe, 1)
    words = {name for name in before if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    assert words
    assert not words & moved(recipe, 5)
    for part in ("vision_tower", "projector", "language_model"):
        assert any(part in name for name in apart)


@recipes
def test_training_ends_in_a_folder_that_opens_and_no_checkpoint(recipe, tmp_path):
    checkpoint = tmp_path / f"{recipe.model}.checkpoint.safetensors"
    run(recipe, checkpoint, stop=4)
    half = {name: value.half().float() for name, value in weights(checkpoint).items()}
    made = train_pictures(recipe, tmp_path, held_out=8)
    assert made == json.loads((tmp_path / "card.json").read_text())
    assert made["held_out_pictures"] == 8 and made["model"] == recipe.model
    assert made["steps_done"] == recipe.steps
    assert not checkpoint.exists()
    opened = open_vlm(str(tmp_path)).model.state_dict()
    assert set(half) < set(opened)  # words are frozen
    assert sum(not torch.equal(opened[name], half[name]) for name in half) > 70  # it went on from the checkpoint


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


@pytest.mark.parametrize("name", VLMS)
def test_without_its_files_it_says_how_to_make_them(name, tmp_path, monkeypatch):
    monkeypatch.setitem(vlms.VLMS, name, tmp_path)
    with pytest.raises(GradprobeError, match=f"make it with gradprobe vlm train-.*{tmp_path.name}"):
        open_vlm(name)
    assert embedded_folder(name) == tmp_path

"""The embedded scenes: what is painted, who may be painted when, and what the shipped model makes of it.

Training is tried on scenes on photographs too.
"""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import gradprobe.training.train_scenes as module
from gradprobe.data.photo_scenes import data_name
from gradprobe.data.scenes import COLOURS, MEAN, NO_COLOUR, NO_DIGIT, STD, bank_of, scenes, split_samples
from gradprobe.embedded.scenes_model import CARD, MODELS, WEIGHTS, load_scenes_model, scenes_sha256
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.training.train_scenes import Recipe, evaluate, recipe_of, trainer

SPLITS = ("train", "heldout")


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def pick(data, rows):
    return replace(data, **{f.name: getattr(data, f.name)[rows] for f in fields(data)})


@pytest.fixture(scope="module", params=SPLITS)
def batch(request):
    return scenes(request.param, range(64))


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_depends_on_its_split_and_id_only(split):
    together = scenes(split, [5, 900, 10**9, 7])
    assert same(together, scenes(split, [5, 900, 10**9, 7]))
    assert same(pick(together, [2, 0]), scenes(split, np.array([10**9, 5])))


def test_another_process_paints_the_same_scenes():
    code = (
        "import sys; from gradprobe.data.scenes import scenes; "
        "sys.stdout.buffer.write(scenes('heldout', range(9)).images.tobytes())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == scenes("heldout", range(9)).images.tobytes()


def test_ids_and_splits_give_other_scenes(batch):
    flat = batch.images.reshape(len(batch.images), -1)
    assert len(np.unique(flat, axis=0)) == len(flat)
    assert not np.array_equal(scenes("train", [1]).images, scenes("heldout", [1]).images)


def test_splits_share_no_sample():
    train, heldout = map(split_samples, SPLITS)
    assert not set(train) & set(heldout)
    assert len(train) + len(heldout) == 1797
    target = load_digits().target
    for split in SPLITS:
        assert np.array_equal(bank_of(split).digits, target[split_samples(split)])
        assert len(bank_of(split).ink) == len(split_samples(split))
    assert set(target[heldout]) == set(range(10))


def test_shapes_types_and_ranges(batch):
    assert batch.images.shape == (64, 3, 112, 112)
    assert batch.images.dtype == np.float32
    assert batch.labels.shape == (64,)
    for field in (batch.digit_of, batch.colour_of):
        assert field.shape == (64, 196)
        assert field.dtype == np.int8
    assert batch.red.dtype == bool
    assert abs(batch.images.mean()) < 0.1
    assert abs(batch.images.std() - 1) < 0.1


def test_labels_agree_with_each_other(batch):
    assert np.array_equal(batch.red, batch.colour_of == 0)
    assert np.array_equal(batch.digit_of == NO_DIGIT, batch.colour_of == NO_COLOUR)
    for row in range(64):
        assert set(batch.digit_of[row][batch.red[row]]) == {batch.labels[row]}
        for colour in range(4):  # one digit in each colour, and never more
            assert len(set(batch.digit_of[row][batch.colour_of[row] == colour])) == 1


def test_digits_take_few_patches_of_a_small_neighbourhood(batch):
    assert batch.red.sum(1).min() >= 3 and batch.red.sum(1).max() <= 20
    assert (batch.digit_of != NO_DIGIT).sum(1).max() < 58
    for red in batch.red.reshape(-1, 14, 14):
        rows, columns = np.nonzero(red)
        assert np.ptp(rows) <= 4 and np.ptp(columns) <= 4


def test_patches_labelled_with_a_colour_hold_its_ink(batch):
    pixels = batch.images * STD + MEAN
    patches = pixels.reshape(64, 3, 14, 8, 14, 8).transpose(0, 2, 4, 3, 5, 1).reshape(64, 196, 64, 3)
    bright = np.linalg.norm(patches, axis=3) > 0.35
    hue = np.argmax((patches / np.linalg.norm(patches, axis=3, keepdims=True)) @ COLOURS.T, axis=3)
    for colour in range(4):
        mine = ((hue == colour) & bright).sum(axis=2)
        labelled = batch.colour_of == colour
        # A patch at the edge of a stroke may hold little of it; nearly all show it plainly.
        assert (mine[labelled] >= 2).mean() > 0.95
        assert mine[labelled].mean() > 1.5 * mine[batch.digit_of == NO_DIGIT].mean()


def test_brightness_does_not_tell_digits_from_clutter(batch):
    pixels = batch.images * STD + MEAN
    norm = np.sqrt((pixels**2).reshape(64, 3, 14, 8, 14, 8).sum(axis=(1, 3, 5))).reshape(64, 196)
    kept = np.argsort(-norm, axis=1)[:, :58]
    assert np.take_along_axis(batch.red, kept, axis=1).sum() / batch.red.sum() < 0.45  # random: 0.30


@pytest.mark.parametrize(("split", "ids", "says"), [("trian", [0], "did you mean 'train'"), ("train", [3, -1], "-1")])
def test_questions_that_cannot_be_asked(split, ids, says):
    with pytest.raises(UsageError, match=says):
        scenes(split, ids)


def test_no_scenes_are_scenes_too():
    assert scenes("train", []).images.shape == (0, 3, 112, 112)


# The model


@pytest.fixture(scope="module")
def card():
    return json.loads(CARD.read_text())


def test_the_model_is_as_good_as_required(card):
    accuracy = card["accuracy"]
    assert card["held_out_scenes"] >= 2000
    assert accuracy["unpruned"] >= 0.96
    assert accuracy["red_first"] >= 0.97 * accuracy["unpruned"]
    assert accuracy["random"] <= accuracy["unpruned"] - 0.20
    assert accuracy["token_norm"] <= accuracy["unpruned"] - 0.05
    assert accuracy["pixel_norm"] <= accuracy["unpruned"] - 0.05
    assert card["scenes_seen"] == card["recipe"]["steps"] * card["recipe"]["batch"]
    assert WEIGHTS.stat().st_size <= 5_000_000


def test_the_card_speaks_of_the_shipped_weights(card):
    assert card["sha256"] == scenes_sha256()
    count = 200
    found = evaluate(load_scenes_model(), count, first=card["held_out_scenes"])
    for rule, stated in card["accuracy"].items():
        error = math.sqrt(stated * (1 - stated) * (1 / count + 1 / card["held_out_scenes"]))
        assert abs(found[rule] - stated) < 4 * error + 1 / count, rule


def test_loading_leaves_the_random_state_and_gives_float32_in_evaluation_mode():
    before = torch.random.get_rng_state()
    model = load_scenes_model()
    assert torch.equal(before, torch.random.get_rng_state())
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_token_sees_its_own_patch_and_a_little_around():
    stem = load_scenes_model().patch_embed
    images = torch.from_numpy(scenes("heldout", range(16)).images).requires_grad_()
    directions = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    tokens = stem(images)
    place = torch.arange(112)
    for row, column in [(3, 10), (7, 6)]:  # not at the border, where there are neighbours on one side only
        reach = torch.zeros(112, 112)
        for direction in directions:
            (gradient,) = torch.autograd.grad(
                (tokens[:, row * 14 + column] @ direction).sum(), images, retain_graph=True
            )
            reach += gradient.square().sum(dim=(0, 1))
        reach /= reach.sum()
        for along, patch in ((reach.sum(1), row), (reach.sum(0), column)):
            # Corner-centred convolutions would be off by 3.5 pixels.
            assert abs(float((along * place).sum()) - (8 * patch + 3.5)) < 2
            seen = torch.nonzero(along)
            assert seen.min() == 8 * patch - 12 and seen.max() == 8 * patch + 18
            middle = along[8 * patch - 4 : 8 * patch + 12].sum()
            assert middle > 0.6  # of 31 pixels, the middle 16; evenly spread it would be 0.52


def test_tokens_have_equal_norms_before_their_positions():
    tokens = load_scenes_model().patch_embed(torch.from_numpy(scenes("heldout", [0]).images))
    # sqrt(D), less a little where a dark patch's variance comes near the 1e-5 that layer_norm adds.
    assert (tokens.norm(dim=2) / 128**0.5 - 1).abs().max() < 0.01


def test_the_model_can_be_copied_and_pickled():
    model = load_scenes_model()
    images = torch.from_numpy(scenes("heldout", [0]).images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), model(images))


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_weights_that_cannot_be_read(tmp_path, content):
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GradprobeError, match="gradprobe train-scenes") as caught:
        load_scenes_model(file)
    assert "\n" not in str(caught.value)


def test_weights_cut_short_or_of_another_model(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    file.write_bytes(WEIGHTS.read_bytes()[:100_000])
    with pytest.raises(GradprobeError, match="not a readable"):
        load_scenes_model(file)
    save_file({"head.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(GradprobeError, match="another model"):
        load_scenes_model(file)


def test_the_hash_needs_no_torch():
    code = "import sys, gradprobe.embedded.scenes_model as e; e.scenes_sha256(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Training

TINY = Recipe(steps=3, seed=1, batch=4, warmup=1, save_every=1)


def weights_after(checkpoint):
    return {name: value for name, value in Checkpoint.read(checkpoint).tensors.items() if name.startswith("model.")}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    losses = [step.loss for step in trainer(TINY).run(whole)]
    code = (
        "import os, signal, sys, pathlib\n"
        "from gradprobe.training.train_scenes import Recipe, trainer\n"
        f"for step in trainer({TINY!r}).run(pathlib.Path(sys.argv[1])):\n"
        "    if step.done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run([sys.executable, "-c", code, str(broken)], check=False, env=environment)
    assert run.returncode < 0
    rest = list(trainer(TINY).run(broken))
    assert [step.done for step in rest] == [3]
    assert rest[0].loss == losses[2]
    assert equal(weights_after(whole), weights_after(broken))
    assert not list(tmp_path.glob("*.new"))


def test_a_seed_is_a_training(tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    short = replace(TINY, steps=1)
    before = torch.random.get_rng_state()
    list(trainer(short).run(one))
    assert torch.equal(before, torch.random.get_rng_state())
    list(trainer(replace(short, seed=2)).run(other))
    assert not equal(weights_after(one), weights_after(other))


def test_pictures_are_a_part_of_the_recipe(tmp_path):
    losses = [next(trainer(replace(TINY, pictures=kind)).run(tmp_path / f"{kind}.safetensors")).loss for kind in MODELS]
    assert len(set(losses)) == len(MODELS)
    with pytest.raises(UsageError, match="pictures scenes there, photos here"):
        next(trainer(replace(TINY, pictures="photos")).run(tmp_path / "scenes.safetensors"))


def test_scenes_on_photographs_are_practised_longer_unless_it_is_said():
    assert recipe_of("photos").steps > recipe_of("scenes").steps == Recipe().steps
    assert recipe_of("photos", 7, 3) == Recipe("photos", steps=7, seed=3)
    with pytest.raises(UsageError, match="steps=0"):
        recipe_of("photos", 0)


def test_a_checkpoint_of_another_recipe_is_refused_and_left(tmp_path):
    file = tmp_path / "one.safetensors"
    list(trainer(replace(TINY, steps=1)).run(file))
    before = file.read_bytes()
    with pytest.raises(UsageError, match=r"steps 1 there, 3 here\); give another --out, or --restart"):
        list(trainer(TINY).run(file))
    assert file.read_bytes() == before
    file.write_bytes(before[:1000])
    with pytest.raises(GradprobeError, match="is no checkpoint that can be read"):
        list(trainer(TINY).run(file))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"seed": -1}, {"save_every": 0}, {"pictures": "phots"}])
def test_recipes_that_cannot_be_trained(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Recipe(**wrong)


@pytest.mark.parametrize("kind", MODELS)
def test_the_command_writes_weights_that_load_and_a_card_of_them(kind, tmp_path, monkeypatch):
    from gradprobe.cli.scenes import train_scenes

    original = module.train_scenes
    monkeypatch.setattr(module, "train_scenes", lambda *a, **k: original(*a, **k, held_out=8))
    out = tmp_path / "new" / "folder"
    train_scenes(out=out, pictures=kind, steps=1, seed=3, precision="float32")
    card, weights = json.loads((out / f"{kind}.json").read_text()), out / f"{kind}.safetensors"
    assert sorted(path.name for path in out.iterdir()) == [f"{kind}.json", weights.name]
    assert card["sha256"] == scenes_sha256(weights)
    for each in (card, card["few"]):
        measured = evaluate(load_scenes_model(weights), 8, kind, each["k"])
        assert each["accuracy"] == pytest.approx(measured, abs=1e-5)
    assert card["k"] > card["few"]["k"] == 20
    assert f"train-scenes --pictures {kind} --steps 1 --seed 3 --precision float32" in card["command"]
    assert (card["recipe"]["pictures"], card["data"].partition(":")[0]) == (kind, data_name(kind).partition(":")[0])
    assert (card["recipe"]["steps"], card["recipe"]["seed"], card["held_out_scenes"]) == (1, 3, 8)

"""Precision of training the embedded models: the faster one, the checkpoint's, or the one asked for."""

import json
from dataclasses import replace

import pytest
import torch

import gradprobe.training.train_scenes as scenes
import gradprobe.vlm.training.pictures as pictures
from gradprobe.errors import UsageError
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.training.precision import PRECISIONS, autocast, choose, seconds_by_precision
from gradprobe.vlm.training import pictures_card

SCENES = scenes.Recipe(steps=2, seed=1, batch=4, warmup=1, save_every=1)
PICTURES = pictures.Recipe(apart=1, words=1, together=1, tower_batch=4, batch=3, save_every=1, warmup=1)
KINDS = {"scenes": (scenes, SCENES), "scenes-vlm": (pictures, PICTURES)}
kinds = pytest.mark.parametrize("kind", KINDS)


def clocked(durations):
    """A step that takes so long by its own clock, and the clock."""
    now = [0.0]
    spent = {name: iter(times) for name, times in durations.items()}

    def step(precision):
        now[0] += next(spent[precision])

    return step, lambda: now[0]


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ({"float32": [9, 1, 1.2], "bfloat16": [1, 5, 6]}, {"float32": 1, "bfloat16": 5}),  # no bfloat16 units
        (
            {"float32": [1, 2, 2], "bfloat16": [30, 1, 8]},
            {"float32": 2, "bfloat16": 1},
        ),  # slow at first, once disturbed
    ],
)
def test_the_shorter_of_two_counts_after_one_to_warm_up(durations, expected):
    assert seconds_by_precision(*clocked(durations)) == pytest.approx(expected)


def test_the_faster_one_is_chosen_and_the_line_says_both_times(monkeypatch):
    monkeypatch.setattr(
        "gradprobe.training.precision.seconds_by_precision", lambda step: {"float32": 1.5, "bfloat16": 7.25}
    )
    reason = "precision: float32, the faster one here (1.5 s against 7.25 s in bfloat16)"
    assert choose("auto", None, print) == ("float32", reason)
    monkeypatch.setattr(
        "gradprobe.training.precision.seconds_by_precision", lambda step: {"float32": 1.5, "bfloat16": 0.5}
    )
    assert choose("auto", None, print)[0] == "bfloat16"


def never(precision):
    raise AssertionError("timed")


def test_a_checkpoint_or_a_name_decides_without_timing():
    assert choose("bfloat16", None, never)[0] == "bfloat16"
    for name in ("auto", "float32"):
        assert choose(name, "float32", never) == ("float32", "precision: float32, as the checkpoint has it")
    with pytest.raises(UsageError, match=r"begun in float32, not bfloat16; leave --precision out.*--restart"):
        choose("bfloat16", "float32", never)
    with pytest.raises(UsageError, match="--precision float16 is not possible"):
        choose("float16", None, never)


def test_products_are_in_the_precision():
    x = torch.ones(2, 2)
    with autocast("bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast("float32"):
        assert (x @ x).dtype == torch.float32


@kinds
def test_timing_leaves_no_trace_in_what_is_trained(kind, tmp_path):
    module, recipe = KINDS[kind]
    state = torch.get_rng_state()
    precision, line = module.trainer(recipe).choose_precision(tmp_path / "none.safetensors", True, "auto")
    assert precision in PRECISIONS and line.startswith(f"precision: {precision}, the faster one here (")
    assert torch.equal(state, torch.get_rng_state()) and not list(tmp_path.iterdir())


@kinds
def test_precisions_train_different_weights_and_a_checkpoint_keeps_its_own(kind, tmp_path):
    module, recipe = KINDS[kind]
    made = {}
    for precision in PRECISIONS:
        file = tmp_path / f"{precision}.safetensors"
        list(module.trainer(recipe).run(file, precision=precision))
        made[precision] = Checkpoint.read(file)
        assert made[precision].progress["precision"] == precision
        assert module.trainer(recipe).choose_precision(file, True, "auto")[0] == precision
    assert any(not torch.equal(x, made["bfloat16"].tensors[n]) for n, x in made["float32"].tensors.items())
    with pytest.raises(UsageError, match="begun in float32, not bfloat16"):
        list(module.trainer(recipe).run(tmp_path / "float32.safetensors", precision="bfloat16"))
    assert (
        module.trainer(recipe).choose_precision(tmp_path / "float32.safetensors", False, "bfloat16")[0] == "bfloat16"
    )  # --restart


@kinds
def test_a_checkpoint_of_an_earlier_version_is_told_and_left(kind, tmp_path):
    module, recipe = KINDS[kind]
    older = tmp_path / "old.pt"
    torch.save({"model": {}, "done": 1}, older)
    file = older.with_suffix(".safetensors")
    with pytest.raises(UsageError, match=r"old\.pt is of an earlier version and cannot be resumed; delete it"):
        list(module.trainer(recipe).run(file))
    with pytest.raises(UsageError, match="earlier version"):
        module.trainer(recipe).choose_precision(file, True, "auto")
    assert module.trainer(recipe).choose_precision(file, False, "float32")[0] == "float32"  # --restart
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


def test_resumed_without_a_word_it_ends_with_the_same_weights_as_in_one_go(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    cards = [scenes.train_scenes(SCENES, whole, held_out=4, precision="float32")]
    parts.mkdir()
    for step in scenes.trainer(SCENES).run(parts / scenes.CHECKPOINT, precision="float32"):
        if step.done == 1:
            break
    cards.append(scenes.train_scenes(SCENES, parts, held_out=4))
    assert "precision: float32, as asked" in (output := capsys.readouterr().err)
    assert "precision: float32, as the checkpoint has it" in output
    assert cards[0]["sha256"] == cards[1]["sha256"] and {card["precision"] for card in cards} == {"float32"}
    assert "--precision float32" in json.loads((parts / "scenes.json").read_text())["command"]


def test_the_card_of_the_pictures_names_it(tmp_path, capsys):
    card = pictures_card.train_pictures(replace(PICTURES, seed=2), tmp_path, held_out=8, precision="float32")
    assert card["precision"] == "float32" and "--precision float32" in card["command"]
    assert "precision: float32, as asked" in capsys.readouterr().err

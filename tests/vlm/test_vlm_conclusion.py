"""Verdict on a pruner beside random tokens at the end of a training, and the warning about tau at its start."""

import json
from dataclasses import replace

import numpy as np
import pytest
from captioned import FEW, captioned, trained, with_processor
from scipy import stats
from typer.testing import CliRunner

from gradprobe.errors import Notice
from gradprobe.operators.registry import build
from gradprobe.statistics.estimates import Estimate
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.task import task_of
from gradprobe.vlm.training.conclusion import beats_random, conclusion, unfinished
from gradprobe.vlm.training.presets import PRESETS
from gradprobe.vlm.training.validation import Validator


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


@pytest.fixture(scope="module")
def short(data, tmp_path_factory):
    """A training too short to learn much."""
    return trained("llava", data, tmp_path_factory.mktemp("short"))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_gain_is_the_paired_difference_with_students_interval(family, rows, data):
    task = task_of(
        with_processor(family), data, {"backbone": f"tiny {family}"}, scorer=FEW.scorer, denoiser="none", seed=0
    )
    validator = Validator(task, build("vpnoise"), Budget(k=6), FEW, "vpnoise", rows, 1)
    with task.running():
        random, gain = validator.against_random()
        each = [validator._losses(select)[1].numpy() for select in (validator._at_random, validator._ranked_first)]
        assert validator.deployed() == pytest.approx(each[1].mean(), rel=1e-12)
    assert random == pytest.approx(each[0].mean(), rel=1e-12) and len(each[0]) == 4 and each[0].all()
    expected = stats.ttest_rel(*each).confidence_interval(0.95)
    assert gain.value == pytest.approx((each[0] - each[1]).mean(), rel=1e-9)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_training_keeps_the_gain_in_its_result_and_its_file(short):
    gain = short.over_random
    assert gain.value == pytest.approx(short.losses["random"] - short.losses["deployed"], rel=1e-9)
    entry = json.loads((short.out / "scorer.json").read_text())["training"]["over_random"]
    assert entry == [gain.value, gain.low, gain.high]
    assert conclusion(short)[1:] in (short.out / "README.md").read_text()


@pytest.mark.parametrize(
    ("gain", "beats", "words"),
    [
        (
            (0.5, 0.2, 0.8),
            True,
            ("better than random tokens: ", "1.5000 with as many", "lower by 0.5000 [0.2000, 0.8000]"),
        ),
        ((0.1, -0.1, 0.3), False, ("this pruner is no better than random", "[-0.1000, 0.3000] on 4 held-out")),
        ((0.0, 0.0, 0.0), False, ("this pruner is no better than random",)),
        ((-0.5, -0.8, -0.2), False, ("this pruner is worse than random tokens: ", "--steps")),
        ((0.5, np.nan, np.nan), False, ("this pruner is no better than random tokens: ", "[no interval]")),
    ],
)
def test_the_verdict_gives_the_numbers(gain, beats, words, short):
    result = replace(
        short, over_random=Estimate(*gain), losses=short.losses | {"deployed": 1.0, "random": 1.0 + gain[0]}
    )
    assert beats_random(result) is beats
    verdict = conclusion(result)
    assert verdict.startswith(words[0]) and all(word in verdict for word in words)


def test_without_validation_there_is_no_verdict(data, tmp_path):
    result = trained("llava", data, tmp_path, validation=0)
    assert beats_random(result) is None and conclusion(result) == ""
    assert "random" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("gain", [(0.5, 0.2, 0.8), (0.1, -0.1, 0.3)])
def test_the_command_ends_with_success_only_if_it_is_one(gain, data, tmp_path, monkeypatch):
    import typer

    from gradprobe.cli.vlm_train import train

    app = typer.Typer()
    app.command()(train)
    monkeypatch.setattr("gradprobe.vlm.model.open_vlm", lambda name, device, dtype: with_processor(name))
    monkeypatch.setattr(Validator, "against_random", lambda validator: (2.0, Estimate(*gain)))
    file = data.listing.root / "captions.jsonl"
    arguments = [
        "--model",
        "llava",
        "--data",
        file,
        "--k",
        5,
        "--out",
        tmp_path,
        "--scorer",
        FEW.scorer,
        "--denoiser",
        "none",
    ]
    arguments += ["--batch-size", 4, "--steps", 4, "--tau-steps", 2, "--save-every", 2, "--validation", 3]
    outcome = CliRunner().invoke(app, [*map(str, arguments)])
    assert outcome.exit_code == 0, outcome.output
    output = outcome.output.replace("\n", " ")
    assert ("better than random tokens: " in output) and ("no better" in output) == (gain[1] < 0)
    for words in ("wrote ", "to use it", "vlm generate"):
        assert (words in output) == (gain[1] > 0)
    assert str(tmp_path) in output and (tmp_path / "scorer.safetensors").exists()


def test_a_training_that_ends_before_tau_has_fallen_is_warned_of():
    paper = PRESETS["diffprune"].settings
    warning = unfinished(paper, 400)
    assert "tau falls from 2 to 0.1 in 2000 steps, and this training has 400" in warning
    assert (
        f"at tau {paper.recipe(400).tau(399):.3g}" in warning
        and "--steps 2000" in warning
        and "--tau-steps 200" in warning
    )
    assert unfinished(paper, 1999) and not unfinished(paper, 2000) and not unfinished(paper, 4000)
    assert not unfinished(replace(paper, tau_start=None, tau_end=None), 10)
    assert not unfinished(replace(paper, op="gumbel-softmax"), 10)  # it has no tau that is moved
    assert not unfinished(replace(paper, op="gumbel-ste:backward=soft+gather"), 10)  # forward it is hard at any
    small = PRESETS["small"].settings
    assert not unfinished(small, small.steps)


@pytest.mark.parametrize("steps", [3, None])
def test_fit_warns_also_where_the_steps_are_those_of_an_epoch(steps, data, tmp_path):
    with pytest.warns(Notice, match="in 40 steps, and this training has [23]: it ends at tau"):
        trained("llava", data, tmp_path, steps=steps, tau_steps=40, validation=0)

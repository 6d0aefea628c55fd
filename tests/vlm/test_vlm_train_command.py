"""Presets, and the command that trains a pruner."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from captioned import SCORER, captioned, log, trained, with_processor
from typer.testing import CliRunner

from gradprobe.errors import UsageError
from gradprobe.models.denoisers import Nothing
from gradprobe.operators.registry import part
from gradprobe.vlm.captions import Captions, open_captions
from gradprobe.vlm.training.presets import PRESETS, preset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Captions:
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


# Presets


def test_the_default_is_the_papers_recipe():
    recipe = preset("diffprune", {"k": 64}).recipe(4000)
    assert (recipe.learning_rate, recipe.batch_size, recipe.rate(2000)) == (2e-4, 32, pytest.approx(1e-4))
    taus = [recipe.tau(t) for t in (0, 1000, 2000, 3999)]
    assert taus == pytest.approx([2.0, 1.05, 0.1, 0.1])
    assert preset("autoselect", {"k": 64}) == preset("diffprune", {"k": 64})
    with pytest.raises(UsageError, match="did you mean 'diffprune'"):
        preset("difprune", {"k": 64})


def test_the_preset_of_84_million_has_84_million():
    counts = {}
    for name in ("diffprune", "diffprune-84m"):
        s = PRESETS[name].settings
        with torch.device("meta"):
            made = [part(kind, spec).make(1024, 0) for kind, spec in (("scorer", s.scorer), ("denoiser", s.denoiser))]
        counts[name] = sum(p.numel() for module in made for p in module.parameters()) / 1e6
    assert counts["diffprune-84m"] == pytest.approx(84, rel=0.005) and counts["diffprune"] == pytest.approx(
        35.7, rel=0.01
    )
    assert all(part("denoiser", p.settings.denoiser) != Nothing() for p in PRESETS.values())


def test_an_epoch_is_as_long_as_the_data(data, tmp_path):
    assert trained("llava", data, tmp_path, steps=None, batch_size=3).planned == 3  # 8 captions

    class Endless:
        size, skipped, fingerprint = 9, (), "endless"

    with pytest.raises(UsageError, match="--steps 400"):
        trained("llava", Endless(), tmp_path / "endless", steps=None)


# The command


@pytest.fixture
def command(monkeypatch):
    import typer

    from gradprobe.cli.vlm_train import train

    app = typer.Typer()
    app.command()(train)
    monkeypatch.setattr("gradprobe.vlm.model.open_vlm", lambda name, device, dtype: with_processor(name))
    monkeypatch.setattr("gradprobe.vlm.training.need.check_frozen", lambda name, dtype, device, copies: None)

    def call(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments)])

    return call


SMALL = ("--scorer", SCORER, "--denoiser", "token:width=16", "--batch-size", 4, "--steps", 4, "--tau-steps", 2)
SMALL += ("--save-every", 2, "--rows", 2, "--validation", 3)


def test_the_command_trains_and_says_how_to_go_on(command, data, tmp_path):
    file = data.listing.root / "captions.jsonl"
    arguments = ("--model", "llava", "--data", file, "--k", 5, "--out", tmp_path, *SMALL)
    outcome = command(*arguments)
    assert outcome.exit_code == 0, outcome.output
    for words in (
        "DiffPrune as appendix A",
        "9 captions to train on, 3 held out",
        "frozen model (float32) +",
        "are free beside the model",
        "kept by this pruner",
        "than random tokens: caption loss",
        str(tmp_path),
    ):
        assert words in outcome.output
    row = json.loads(command(*arguments, "--json").stdout)
    assert row["k"] == 5 and row["training"]["steps"] == 4
    settings = row["training"]["question"]
    assert (settings["tau_start"], settings["tau_end"], settings["learning_rate"]) == (2.0, 0.1, 2e-4)


def test_the_command_names_lines_that_are_no_captions(command, tmp_path):
    file = captioned(tmp_path)
    file.write_text("no json\n" + file.read_text())
    outcome = command(
        "--model", "llava", "--data", file, "--ratio", 0.3, "--out", tmp_path / "out", *SMALL, "--tau", "own"
    )
    assert outcome.exit_code == 0, outcome.output
    assert "passed over 1: line 1: no JSON" in outcome.output
    assert "line 1: no JSON" in (tmp_path / "out/README.md").read_text()
    assert "tau" not in log(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "llava", "--k", 5), "needs captioned images"),
        (("--model", "llava"), "either --k"),
        (("--model", "llava", "--k", 5, "--data", "nowhere.jsonl"), "does not exist"),
        (("--model", "llava", "--k", 5, "--preset", "smal"), "did you mean 'small'"),
        (("--model", "llava", "--k", 5, "--tau", "hot"), "--tau hot"),
        (("--model", "llava", "--k", 5, "--track", "wand"), "did you mean 'wandb'"),
        (("--model", "llava", "--k", 5, "--patience", 3, "--validation", 0), "--patience 3 counts validations"),
        (("--model", "scenes-vlm", "--k", 5, "--image-root", "."), "--image-root goes with --data"),
        (("--model", "scenes-vlm", "--k", 5, "--caption-column", "text"), "--caption-column goes with --data"),
    ],
)
def test_what_cannot_be_asked_of_the_command(arguments, words, command, tmp_path):
    outcome = command(*arguments, "--out", tmp_path)
    assert isinstance(outcome.exception, UsageError) and words in str(outcome.exception)


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    program = textwrap.dedent(
        """
        import sys
        import gradprobe.cli.vlm_train
        import gradprobe.vlm.training.presets
        heavy = {"transformers", "accelerate", "datasets", "trackio", "wandb", "tensorboard"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)

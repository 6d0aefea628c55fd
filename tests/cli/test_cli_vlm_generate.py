"""``gradprobe vlm generate`` and the folder of a model that it opens."""

import json

import pytest
import torch
import typer
from PIL import Image
from tiny_vlms import SPEC, shared
from typer.testing import CliRunner

from gradprobe.cli.vlm_generate import generate
from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import inputs_of, save
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.pruner import Pruner


@pytest.fixture(scope="module")
def folder_of_a_model(tmp_path_factory):
    """A model of random weights with its processor, as ``save_pretrained`` leaves them."""
    from gradprobe.vlm.embedded import blank_vlm, digits_processor

    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blank_vlm().save_pretrained(folder)
    digits_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Two image files, one of them not square."""
    for number, size in enumerate([(80, 80), (120, 90)]):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(2)]


def run(*arguments):
    app = typer.Typer()
    app.command()(generate)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_folder_opens_as_the_model_in_it(folder_of_a_model):
    vlm = open_vlm(str(folder_of_a_model), dtype="bfloat16")
    assert vlm.family.name == "llava" and vlm.dim == 128 and vlm.processor.tokenizer.padding_side == "left"
    assert vlm.model.dtype == torch.bfloat16 and not vlm.model.training
    inputs = inputs_of(vlm, [Image.new("RGB", (80, 80))], "is there a red seven ?")
    pruned = Pruner(vlm, part("scorer", SPEC).make(128, 0), Budget(k=7))
    assert pruned.logits(inputs).dtype == torch.bfloat16
    assert pruned.sequence(inputs).embeds.shape[1] == inputs["input_ids"].shape[1] - 93


def test_the_command_says_what_the_pruned_model_says(tmp_path, folder_of_a_model, pictures):
    vlm = open_vlm(str(folder_of_a_model))
    scorer = part("scorer", SPEC).make(vlm.dim, 0)
    folder = save(tmp_path / "pruner", scorer, {**vlm.metadata, "scorer": SPEC, "ratio": 0.1, "op": "vpnoise"})
    images = ["--image", pictures[0], "--image", pictures[1]]
    arguments = ["--pruner", folder, *images, "--prompt", "is there a red seven ?", "--max-new-tokens", 3]
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    inputs = inputs_of(vlm, [Image.open(p) for p in pictures], "is there a red seven ?")
    pruned = Pruner(vlm, scorer, Budget(ratio=0.1))
    assert answer["tokens"] == [100, 100] and answer["kept"] == [index.tolist() for index in pruned.kept(inputs)[0]]
    assert (
        answer["new_tokens"] == pruned.generate(inputs, max_new_tokens=3, options={"do_sample": False})[0, -3:].tolist()
    )
    result = run(*arguments, "--k", 4, "--model", folder_of_a_model)
    assert result.exit_code == 0 and "read 4 of 100, 4 of 100 visual tokens" in result.output
    result = run("--select", "fastv@1", "--k", 4, "--model", folder_of_a_model, *arguments[2:])
    layers = len(answer["layers"])
    assert f": 100 x1, 4 x{layers - 1}; 100 x1, 4 x{layers - 1}; average" in result.output  # of each image


def test_what_the_command_cannot_do_is_said(tmp_path, folder_of_a_model, pictures):
    vlm = open_vlm(str(folder_of_a_model))
    metadata = {**vlm.metadata, "scorer": SPEC, "k": 3}
    folder = save(tmp_path / "pruner", part("scorer", SPEC).make(vlm.dim, 0), metadata)
    (tmp_path / "broken.png").write_bytes(b"no image")
    arguments = {"--pruner": folder, "--image": pictures[0], "--prompt": "is there a red seven ?"}
    for changed, message in (
        ({"--pruner": tmp_path / "none"}, "no pruner in"),
        ({"--image": tmp_path / "none.png"}, "no file"),
        ({"--image": tmp_path / "broken.png"}, "cannot be read as an image"),
        (
            {"--prompt": "<image> <image> what is it"},
            "has 2 times <image> for 1 image; write <image> once",
        ),
        ({"--k": 3, "--ratio": 0.1}, "give one of --k"),
        ({"--max-new-tokens": 0}, "--max-new-tokens 0"),
        ({"--model": tmp_path / "none"}, "no folder"),
    ):
        result = run(*[word for pair in {**arguments, **changed}.items() for word in pair])
        assert isinstance(result.exception, UsageError) and message in str(result.exception)


def test_a_prompt_needs_a_processor():
    with pytest.raises(UsageError, match="without a processor"):
        inputs_of(VLM.of(shared("llava").model), [], "hello")

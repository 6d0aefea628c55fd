"""`gradprobe vlm search --predictor` as a user types it, and the predictor at work in `vlm generate`."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from gradprobe.cli import app
from gradprobe.errors import UsageError
from gradprobe.vlm.deploy import inputs_of
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.search.predictor_file import load_predictor

FEW = ("--outer", 1, "--inner", 1, "--batch-size", 2, "--validation", 3)
PROMPT = "is there a red seven ?"


def run(*arguments):
    return CliRunner().invoke(app, ["vlm", *map(str, arguments)])


def search(folder, *arguments):
    return run(
        "search", "--select", "fastv", "--budget", "0.4,0.6", "--out", folder / "plan.json", *FEW, "--predictor",
        *arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a predictor and an image, and what the command printed."""
    folder = tmp_path_factory.mktemp("predictor")
    out = search(folder, "--figure", folder / "f.svg")
    assert out.exit_code == 0, out.output
    Image.effect_noise((80, 80), 80).convert("RGB").save(folder / "x.png")
    return folder, out.output


def generate(folder, select, *arguments):
    return run("generate", "--select", select, "--image", folder / "x.png", "--prompt", PROMPT, *arguments)


def test_it_stands_beside_the_schedules_and_is_written_beside_the_plans(made):
    folder, output = made[0], " ".join(made[1].split())
    assert all(
        words in output for words in ("predictor", "plan.predictor.safetensors@0.4", "a schedule for each image")
    )
    assert (folder / "plan.predictor.safetensors").is_file() and (folder / "f.svg").stat().st_size > 1000
    told = json.loads(search(folder, "--json").stdout)
    rows = [row for row in told["rows"] if row["schedule"] == "predictor"]
    assert [row["budget"] for row in rows] == [0.4, 0.6]
    for row in rows:
        assert row["share_most"] <= row["budget"] and len(row["counts_spread"]) == 4 and row["images"] == 3
    assert told["predictor"]["path"].endswith("plan.predictor.safetensors") and len(told["predictor"]["iterates"]) == 2


@pytest.mark.parametrize("budget", [0.4, 0.55, 1])
def test_generate_reads_the_tokens_of_the_images_own_plan(made, budget):
    folder, _ = made
    file = folder / "plan.predictor.safetensors"
    out = generate(folder, f"{file}@{budget}", "--json", "--max-new-tokens", 2)
    assert out.exit_code == 0, out.output
    told = json.loads(out.stdout)
    vlm, predictor = open_vlm("photos-vlm"), load_predictor(file)
    features = vlm.vision_features(inputs_of(vlm, [Image.open(folder / "x.png")], PROMPT)).tokens[0]
    plan = predictor.plan(vlm, features, budget)
    assert told["settings"]["select"] == plan.label
    assert tuple(told["layers"]) == plan.counts(100, 4).layers
    assert predictor.spending.share(told["layers"]) <= budget


@pytest.mark.parametrize(
    ("behind", "options", "words"),
    [
        ("", (), "names no budget"),
        ("@much", (), "names no budget"),
        ("@1.5", (), "share in (0, 1]"),
        ("@0.01", (), "layer 0 reads all"),
        ("@0.4", ("--k", 5), "--k does not go with a predictor"),
        ("@0.4", ("--pruner", "p"), "--pruner does not go with a predictor"),
        ("@0.4", ("--model", "nowhere/there/here"), "nowhere/there/here"),
    ],
)
def test_wrong_questions(made, behind, options, words):
    folder, _ = made
    out = generate(folder, f"{folder / 'plan.predictor.safetensors'}{behind}", *options)
    assert isinstance(out.exception, UsageError) and words in str(out.exception)


def test_a_predictor_is_of_one_image_and_of_generate(made):
    folder, _ = made
    select = f"{folder / 'plan.predictor.safetensors'}@0.4"
    out = generate(folder, select, "--image", folder / "x.png")
    assert isinstance(out.exception, UsageError) and "one image, and there are 2" in str(out.exception)
    out = run("cost", "--model", "photos-vlm", "--select", select)
    assert isinstance(out.exception, UsageError) and "gradprobe vlm generate takes" in str(out.exception)
    out = generate(folder, folder / "no.safetensors@0.4")
    assert isinstance(out.exception, UsageError) and "there is no predictor" in str(out.exception)

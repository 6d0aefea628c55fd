"""The options --weights-key, --image-size and --class-order on every command that takes weights and data."""

import json

import pytest
import timm
import torch
from PIL import Image

from gradprobe.operators.registry import build
from gradprobe.probes.coherence import PROBE, CoherenceSettings
from gradprobe.probes.contract import Subject, question_of
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.store.results import Store, key_of
from gradprobe.tasks import classification

COMMANDS = ("compare", "coherence", "landscape", "curvature", "fidelity", "equivalence", "retention", "cost")
SMALL = ["--op", "scale", "--baseline", "none", "--k", "2", "--batches", "3", "--batch-size", "2", "--loss", "ce"]
MODEL = ["--backbone", "test_vit", "--weights", "w.pth", "--data", "photos"]


@pytest.fixture
def files(tmp_path):
    """A checkpoint with two models, and images in folders whose text order is not their natural one."""
    raw = timm.create_model("test_vit", img_size=32, num_classes=3).state_dict()
    ema = {name: value + 0.02 for name, value in raw.items()}
    torch.save({"state_dict": raw, "state_dict_ema": ema}, tmp_path / "w.pth")
    for number, name in enumerate(("c1", "c2", "c10")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (40, 40), (80 * number, 25 * i, 9)).save(tmp_path / "photos" / name / f"{i}.png")


def measured(run, *options):
    code, out, err = run("coherence", *SMALL, *MODEL, "--json", *options)
    assert code == 0, err
    told = json.loads(out)
    return told["settings"], told["rows"], err


@pytest.mark.usefixtures("files")
def test_what_was_chosen_is_one_line_on_stderr_and_only_what_was_typed_is_asked(run):
    order = ["--class-order", "natural"]
    plain, rows, err = measured(run, *order)
    notices = [line for line in err.splitlines() if "w.pth" in line]
    assert notices == [
        "gradprobe: --weights w.pth: taken from state_dict_ema rather than from state_dict; "
        "--weights-key KEY takes another"
    ]
    assert plain["class_order"] == "natural"
    assert not {"weights_key", "image_size"} & plain.keys()
    keyed, other, err = measured(run, *order, "--weights-key", "state_dict")
    assert keyed == {**plain, "weights_key": "state_dict"}
    assert "rather" not in err
    assert other[0]["coherence"] != rows[0]["coherence"]
    same, again, _ = measured(run, *order, "--weights-key", "state_dict_ema")
    assert same["weights_key"] == "state_dict_ema"
    assert again[0]["coherence"] == rows[0]["coherence"]
    sized, _, err = measured(run, *order, "--image-size", "48x64")
    assert sized == {**plain, "image_size": "48x64"}
    assert "position embedding resampled" in err
    assert measured(run, *order, "--image-size", "48")[0]["image_size"] == 48
    text, third, _ = measured(run, "--class-order", "text")
    assert text["class_order"] == "text"
    assert third[0]["coherence"] != rows[0]["coherence"]  # other labels


@pytest.mark.usefixtures("files")
def test_keys_of_a_file_come_out_escaped(run, tmp_path):
    raw = torch.load(tmp_path / "w.pth")["state_dict"]
    torch.save({"model": raw, "\x1b[31mred[/x]\n": dict(raw)}, tmp_path / "w.pth")
    code, _, err = run("coherence", *SMALL, *MODEL, "--weights-key", "modle")
    assert code == 2
    _, _, notice = run("coherence", *SMALL, *MODEL, "--class-order", "natural")
    for text in (err, notice.splitlines()[0]):
        assert "\x1b" not in text
        assert "red[/x]" in text


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_them(run, command):
    cases = {
        ("--weights-key", "mine"): "no weights under 'mine'; Known: state_dict, state_dict_ema",
        ("--image-size", "50"): "does not divide into patches; the nearest is --image-size 48",
        ("--image-size", "99999999x99999999"): "--image-size 99999999x99999999 is not possible",
        ("--class-order", "sideways"): "--class-order sideways is not possible; give --class-order text or natural",
    }
    base = [command, "--op", "softtopk" if command == "equivalence" else "scale", *MODEL]
    for options, message in cases.items():
        code, _, err = run(*base, "--k", "2", *options)
        assert code == 2
        assert message in err
        assert err.strip("\n").count("\n") == err.count("taken from")  # that line, and this one


@pytest.mark.usefixtures("files")
def test_a_share_of_tokens_is_of_the_model_in_the_file(run):
    code, out, err = run(
        "compare", "--op", "scale", "--baseline", "none", *MODEL, "--class-order", "natural", "--keep", "0.5", "--size",
        "tiny", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["settings"]["k"] == 2
    assert json.loads(out)["settings"]["tokens"] == 4


def test_a_vision_language_model_takes_none_of_them(run):
    pytest.importorskip("transformers")
    for option in (("--weights-key", "model"), ("--image-size", "48"), ("--class-order", "text")):
        code, _, err = run("coherence", "--op", "scale", "--k", "5", "--task", "scenes-vlm", *option)
        assert code == 2
        assert f"{option[0]} {option[1]} is not possible with a vision-language model" in err


def test_without_files_there_is_nothing_to_choose(run):
    code, _, err = run("coherence", "--op", "scale", "--k", "5", "--weights-key", "model")
    assert (code, "--weights-key model needs a file" in err) == (2, True)
    code, _, err = run("coherence", "--op", "scale", "--k", "5", "--class-order", "text")
    assert (code, "--class-order text needs class folders" in err) == (2, True)


@pytest.mark.usefixtures("files")
@pytest.mark.filterwarnings("ignore::gradprobe.errors.Notice")
def test_a_stored_question_opens_the_same_model_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    task = classification(
        "test_vit", weights="w.pth", data="photos", weights_key="state_dict", image_size=(48, 32), class_order="natural"
    )
    settings = CoherenceSettings(batches=3, batch_size=2, draws=2)
    question = question_of(PROBE, Subject(task, build("scale"), 2), settings)
    where = {"weights": "w.pth", "data": "photos"}
    answer = answered(question, where, [Store(tmp_path / "runs")], OpenTasks())
    assert answer.computed
    assert key_of(answer.result.question) == key_of(question)
    assert question["image_size"] == "48x32"

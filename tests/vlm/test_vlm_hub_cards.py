"""Cards of pruners: what the hub reads of them, and examples that run as they stand."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import serving
from huggingface_hub import ModelCard
from PIL import Image
from tiny_vlms import SPEC, made, shared

from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.statistics.estimates import Estimate
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import load, save
from gradprobe.vlm.hub_card import completed, front_matter
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.training.card import card, facts
from gradprobe.vlm.training.result import TrainingResult, Validation

LOSSES = {"unpruned": 1.0, "deployed": 1.25, "random": 2.0, "training": 1.5}


def result(out: Path, **config) -> TrainingResult:
    question = {"k": 5, "ratio": None, "op": "lapsum+vpnoise", "scorer": SPEC, "backbone": "llava-hf/llava-1.5-7b-hf"}
    return TrainingResult(
        out=out, config={**question, "data": "0a1b2c:4", **config}, steps=6, planned=6, step=4,
        validations=(Validation(4, 1.5, 1.25),), losses=LOSSES, training_loss=1.4, parameters={"scorer": 9},
        seconds=60.0, skipped=(), examples={"held_out": 4, "seen": 24}, over_random=Estimate(0.75, 0.5, 1.0),
    )  # fmt: skip


def trained(out: Path, vlm=None, **config) -> Path:
    """A folder as training leaves it."""
    vlm = vlm or shared("llava")
    about = result(out, **config)
    save(out, part("scorer", about.config["scorer"]).make(vlm.dim, 3), vlm.metadata | facts(about))
    (out / "README.md").write_text(card(about, "gradprobe vlm train --k 5"))
    return out


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub


def stored(hub, name: str) -> dict[str, bytes]:
    repo = hub.repos[name]
    return repo.commits[repo.branches["main"]]


def test_the_hub_reads_what_was_trained_and_measured(tmp_path):
    data = ModelCard(card(result(tmp_path / "mine"))).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "gradprobe", "image-text-to-text")
    assert data.base_model == "llava-hf/llava-1.5-7b-hf" and data.tags == ["visual-token-pruning"]
    assert data.model_name == "mine" and data.datasets is None
    assert sorted(each.metric_value for each in data.eval_results) == sorted(LOSSES.values())
    assert {each.metric_type for each in data.eval_results} == {"loss"}
    (kept,) = [each for each in data.eval_results if "kept by this pruner" in each.metric_name]
    assert kept.metric_value == LOSSES["deployed"] and kept.dataset_name == "4 held-out captions"


def test_only_ids_of_the_hub_are_named_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models/llava").mkdir(parents=True)
    for model in ("scenes-vlm", "models/llava", "/srv/llava", "../up/llava", "C:\\llava", "a\nb: c"):
        data = ModelCard(front_matter("x", model)).data
        assert data.base_model is None and data.library_name == "gradprobe"
    assert ModelCard(card(result(tmp_path, data="ada/captions"))).data.datasets == ["ada/captions"]


def test_losses_that_are_no_numbers_are_left_out():
    data = ModelCard(front_matter("x: [\u202e", "a/b", [("all", float("nan")), ("kept", 1.0)], 4)).data
    assert [each.metric_value for each in data.eval_results] == [1.0] and "\u202e" not in data.model_name


def test_a_saved_pruner_has_the_card_of_its_training_while_it_is_the_same(tmp_path):
    vlm = shared("llava")
    pruned = load(trained(tmp_path / "a"), vlm)
    saved = (pruned.save_pretrained(tmp_path / "b") / "README.md").read_text()
    assert saved == card(result(tmp_path / "b"))
    other = replace(pruned, budget=Budget(k=3)).save_pretrained(tmp_path / "c", license="mit") / "README.md"
    data, text = ModelCard(other.read_text()).data, other.read_text()
    assert data.eval_results is None and data.license == "mit" and "keeps 3 tokens an image" in text
    assert "No result of this pruner is known" in text and "1.25" not in text


def test_the_card_of_a_plan_says_what_it_does(tmp_path):
    pruned = Pruner(shared("llava"), "divprune:k=6;random@1", Budget(ratio=0.25))
    text = (pruned.save_pretrained(tmp_path) / "README.md").read_text()
    assert "keeps 25 % of the tokens of each image, chosen by `divprune` before the language model and" in text
    assert "`random` at its layer 1" in text and ModelCard(text).data.base_model is None


def use_of(text: str) -> tuple[str, str]:
    """The Python code and the command line in a card."""
    use = text.partition("## Use")[2]
    python, shell = (re.search(f"```{kind}\n(.*?)```", use, re.DOTALL)[1] for kind in ("python", "sh"))
    return python, shell


def saved_pruner(folder: Path, kind: str) -> Path:
    vlm = open_vlm("scenes-vlm")
    if kind == "plan":
        return Pruner(vlm, "divprune:k=40;fastv@2", Budget(k=11)).save_pretrained(folder)
    return trained(folder, vlm, backbone="scenes-vlm")


@pytest.mark.parametrize("kind", ["plan", "scorer"])
def test_the_examples_run_as_they_stand_here_and_on_the_hub(kind, hub, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((80, 80), 80).convert("RGB").save("photo.jpg")
    folder = saved_pruner(tmp_path / "my pruner", kind)
    code, out, err = run("vlm", "push", folder, "ada/mine")
    assert code == 0 and out.startswith(f"pushed: {hub.url}/ada/mine/commit/"), err
    for text, opened in (((folder / "README.md").read_text(), "my pruner"), (None, "ada/mine")):
        text = text or stored(hub, "ada/mine")["README.md"].decode()
        python, shell = use_of(text)
        assert f'from_pretrained("{opened}")' in python
        hub.asked.clear()
        names: dict = {}
        capsys.readouterr()
        exec(compile(python, "README.md", "exec"), names)
        answer = capsys.readouterr().out.strip()
        assert answer and names["pruned"].vlm.name == "scenes-vlm" and bool(hub.asked) == (opened == "ada/mine")
        program, *arguments = shlex.split(shell)
        code, out, err = run(*arguments, "--max-new-tokens", "3", "--json")
        assert program == "gradprobe" and code == 0, err
        inputs = names["inputs_of"](names["pruned"].vlm, [Image.open("photo.jpg")], arguments[-1])
        assert json.loads(out)["kept"] == [index.tolist() for index in names["pruned"].kept(inputs)[0]]
    assert "adapter" not in text  # the model is none of the hub


def test_a_push_changes_names_and_missing_entries_of_a_card_only(hub, run, tmp_path):
    folder = trained(tmp_path / "mine")
    text = (folder / "README.md").read_text()
    assert run("vlm", "push", folder, "ada/mine")[0] == 0
    assert stored(hub, "ada/mine")["README.md"].decode() == text.replace('"mine"', '"ada/mine"').replace(
        "--pruner mine", "--pruner ada/mine"
    )
    assert (folder / "README.md").read_text() == text
    for name in ("scorer.json", "scorer.safetensors"):
        assert stored(hub, "ada/mine")[name] == (folder / name).read_bytes()
    own = '---\nbase_model: /srv/llava\ntags: [visual-token-pruning, mine]\n---\n\n# Mine\n\ngp.vlm.load("mine")\n'
    (folder / "README.md").write_text(own)
    (folder / "checkpoint.safetensors").write_text("large")
    code, out, _ = run(
        "vlm",
        "push",
        folder,
        "ada/own",
        "--branch",
        "dev",
        "--license",
        "mit",
        "--private",
        "--dataset",
        "ada/captions",
        "--json",
    )
    assert code == 0 and json.loads(out)["branch"] == "dev"
    repo = hub.repos["ada/own"]
    files = repo.commits[repo.branches["dev"]]
    assert repo.private and "checkpoint.safetensors" not in files and (folder / "README.md").read_text() == own
    pushed = ModelCard(files["README.md"].decode())
    assert pushed.data.datasets == ["ada/captions"]
    assert (pushed.data.license, pushed.data.tags) == ("mit", ["visual-token-pruning", "mine"])
    assert pushed.data.base_model == "llava-hf/llava-1.5-7b-hf"  # of the training; the hub refuses a folder
    assert pushed.text.strip() == '# Mine\n\ngp.vlm.load("ada/own")'


def test_a_card_without_or_with_broken_front_matter():
    fresh = front_matter("x", "a/b") + "\n"
    assert ModelCard(completed("# Mine\n", fresh, None)).data.license == "apache-2.0"
    with pytest.raises(ValueError, match=r"front matter of README\.md"):
        completed("---\na: [\n---\n", fresh, None)


def test_what_cannot_be_pushed_from_the_command_line_is_said(hub, run, tmp_path, monkeypatch):
    folder = trained(tmp_path / "mine")
    for arguments, status, message in (
        ([tmp_path, "ada/x"], 2, "no pruner in"),
        ([tmp_path / "none", "ada/x"], 2, "no pruner in"),
        ([folder, "ada/x", "--dataset", "captions.jsonl"], 2, "--dataset captions.jsonl is no id of the hub"),
        ([folder, "x"], 2, "'x' is no name of a repository"),
    ):
        code, _, err = run("vlm", "push", *arguments)
        assert code == status and message in err
    (folder / "README.md").write_text("---\na: [\n---\n")
    code, _, err = run("vlm", "push", folder, "ada/x")
    assert code == 1 and "the front matter of README.md" in err
    (folder / "README.md").unlink()
    (folder / "scorer.json").write_text("{")
    code, _, err = run("vlm", "push", folder, "ada/x")
    assert code == 1 and "scorer.json cannot be read" in err
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = run("vlm", "push", saved_pruner(tmp_path / "plan", "plan"), "ada/x")
    assert code == 2 and "hf auth login" in err and hub.repos == {}


def test_the_command_line_reads_a_repository_at_a_revision(hub, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((80, 80), 80).convert("RGB").save("photo.jpg")
    folder = saved_pruner(tmp_path / "mine", "plan")
    assert run("vlm", "push", folder, "ada/mine", "--branch", "v1")[0] == 0
    arguments = ["--image", "photo.jpg", "--prompt", "is there a red seven ?", "--max-new-tokens", "1"]
    code, _, err = run("vlm", "generate", "--pruner", "ada/mine@v1", *arguments)
    assert code == 0 and "read 40 of 100 visual tokens" in err
    code, out, _ = run("vlm", "show", "--pruner", "ada/mine@v1", "--picture", "3", "--figure", "f.png")
    assert code == 0 and "ranked by divprune:k=40;fastv@2" in out and Path("f.png").is_file()
    code, _, err = run("vlm", "generate", "--pruner", "ada/mine", *arguments)
    assert code == 2 and "ada/mine on the hub is no pruner" in err
    code, _, err = run("vlm", "generate", "--pruner", "ada/mine@v1", "--select", "scored@2", *arguments)
    assert code == 2 and "does not use the scorer of --pruner" in err
    code, _, err = run("vlm", "generate", "--pruner", "ada/mine@v2", *arguments)
    assert code == 2 and "has no revision v2; it has main, v1" in err


def test_code_of_ones_own_is_named_and_not_pushed(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import torch\nfrom gradprobe.view import Kept\n\ndef first(view, k):\n"
        "    return Kept(torch.arange(k).expand(len(view.features), k))\n"
    )
    vlm = shared("llava")
    Pruner(vlm, "mine.py:first", Budget(k=5)).push_to_hub("ada/mine")
    assert "mine.py" not in stored(hub, "ada/mine")
    text = stored(hub, "ada/mine")["README.md"].decode()
    assert "it lies in mine.py" in text and "trust=['mine.py']" in text and "--trust mine.py" in text
    from gradprobe.operators import user_files

    user_files.forget()
    with pytest.raises(UsageError, match=r"mine\.py:first, Python code that would run here"):
        load("ada/mine", vlm)
    again = load("ada/mine", vlm, trust=["mine.py"])
    assert again.kept(made(vlm, [[1]]))[0][0].tolist() == [0, 1, 2, 3, 4]

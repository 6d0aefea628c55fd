"""``gradprobe retention`` as a user meets it: prints, stores, goes on, deploys, refuses in one line."""

import json
import re

import pytest
import torch
from PIL import Image
from stored import array_bytes

import gradprobe as gp
from gradprobe.training.scorer_trainer import ScorerTrainer

SMALL = ["retention", "--op", "vpnoise", "--images", "8", "--batch-size", "2", "--scorer", "mlp:width=8"]
QUICK = [*SMALL, "--steps", "2"]


def test_it_prints_stores_draws_and_what_it_names_can_be_deployed(run, tmp_path):
    code, out, _ = run(*QUICK, "--k", "7", "--weights", "none", "--figure", "f.png")
    assert code == 0
    for words in ("RANDOM WEIGHTS", "K = 7 of 196", "gumbel-ste+gather", "by class-attention"):
        assert words in out
    told = " ".join(out.split())
    assert re.search(r"lapsum\+vpnoise at K = 7: retention \S+ against \S+ of gumbel-ste\+gather, difference", told)
    assert "2 seeds: no interval over trainings" in told and "read each seed" in told
    assert (tmp_path / "f.png").stat().st_size > 5000
    scorers = re.findall(r"^scorer of (\S+), K = (\d+), seed (\d): (\S+)$", out, re.MULTILINE)
    assert sorted({s[:3] for s in scorers}) == sorted(
        (op, "7", s) for op in ("gumbel-ste+gather", "lapsum+vpnoise") for s in "01"
    )
    path, k = re.search(r'load_scorer\("(.+)"\)\s+pruned = gp\.prune\(vit, scorer, k=(\d+)\)', out).groups()
    vit = gp.classification("scenes", weights="none").backbone.model
    assert gp.prune(vit, gp.load_scorer(path), k=int(k))(torch.zeros(1, 3, 112, 112)).shape == (1, 10)
    assert len(list(tmp_path.glob("runs/retention/*.npz"))) == 2 * (2 + 6)


def test_json_is_one_object_and_the_store_answers_again(run):
    asked = [*QUICK, "--seeds", "3", "--rankings", "truth,norm"]
    code, out, _ = run(*asked, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["settings"]["seeds"] == [3] and answer["settings"]["baseline"] == "gumbel-ste+gather"
    assert answer["settings"]["tau_start"] == 2.0 and answer["settings"]["batch_size"] == 2
    assert [(r["op"], r["k"]) for r in answer["rows"]] == [
        ("gumbel-ste+gather", 20), ("lapsum+vpnoise", 20), ("ranked:truth", 20), ("ranked:norm", 20)
    ]  # fmt: skip
    first, second, truth, _ = answer["rows"]
    assert first["difference"] is None and second["difference"] is not None and second["difference_low"] is not None
    assert truth["auc"] == 1 and truth["steps"] == 0 and second["retention"] >= 0
    again = run(*asked)[1]
    assert again.count("from the store") == 4 and "say nothing about another training" in " ".join(again.split())
    assert "from the store" not in run(*asked, "--force")[1]
    listed = json.loads(run("list", "--json")[1])
    assert {entry["probe"] for entry in listed} == {"retention"}
    assert "seed 3, 8 images" in " ".join(run("list")[1].split())
    key = next(entry["key"] for entry in listed if entry["question"]["op"] == "lapsum+vpnoise")
    shown = run("show", key)[1]
    assert "lapsum+vpnoise" in shown and "retention [95 %]" in shown and "learning_rate" in shown


def test_seeds_are_scorers_images_and_weights_of_their_own(run):
    asked = [*QUICK, "--rankings", "none", "--baseline", "none", "--seeds", "1,0", "--weights", "none", "--json"]
    answer = json.loads(run(*asked)[1])
    (row,) = answer["rows"]
    assert row["seeds"] == [0, 1] and len(row["by_seed"]) == 2 and len(row["paths"]) == 2
    questions = [entry["question"] for entry in json.loads(run("list", "--json")[1])]
    assert sorted((q["seed"], q["weights"]) for q in questions) == [(0, "random:0"), (1, "random:1")]
    states = [gp.load_scorer(path).state_dict() for path in row["paths"]]
    assert not torch.equal(*(state["network.hidden.weight"] for state in states))


def test_keep_is_a_share_and_tau_own_leaves_it_out(run):
    asked = [*QUICK, "--keep", "0.1,0.05", "--tau", "own", "--op", "vpnoise:tau=0.3", "--rankings", "none"]
    answer = json.loads(run(*asked, "--seeds", "1", "--json")[1])
    assert [row["k"] for row in answer["rows"]] == [10] * 3 + [20] * 3
    assert "tau_start" not in answer["settings"]
    assert answer["rows"][1]["op"] == "lapsum+vpnoise" and answer["rows"][2]["op"] == "lapsum:tau=0.3+vpnoise"


def test_stopped_it_goes_on_from_what_was_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr("gradprobe.probes.retention.training_run.SAVE_EVERY", 3)
    asked = [*SMALL, "--steps", "6", "--seeds", "1", "--rankings", "none", "--baseline", "none"]
    original = ScorerTrainer.run

    def stopped(self):
        for step in original(self):
            if step == 5:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(ScorerTrainer, "run", stopped)
    code, _, err = run(*asked)
    assert code == 130 and "goes on from it" in err and not list(tmp_path.glob("runs/*/*.npz"))
    steps = []

    def counted(self):
        for step in original(self):
            steps.append(step)
            yield step

    monkeypatch.setattr(ScorerTrainer, "run", counted)
    assert run(*asked)[0] == 0 and steps == [4, 5, 6]
    monkeypatch.setattr(ScorerTrainer, "run", original)
    assert run(*asked, "--results", "other")[0] == 0
    one, other = (next(tmp_path.glob(f"{where}/retention/*.npz")) for where in ("runs", "other"))
    assert array_bytes(one) == array_bytes(other) and not list(tmp_path.glob("runs/*/*.partial"))


def photos(path, count=6):
    for i in range(count):
        place = path / "xy"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (130, 120), (40 * i, 100, 200)).save(place / f"{i}.png")


def test_a_folder_has_no_truth_and_training_on_the_test_images_is_said(run, tmp_path):
    photos(tmp_path / "test")
    photos(tmp_path / "train", 4)
    asked = [*QUICK[:3], "--steps", "1", "--batch-size", "2", "--scorer", "mlp:width=8", "--seeds", "1", "--loss", "kl"]
    asked += ["--weights", "none", "--data", "test", "--k", "5"]
    code, out, _ = run(*asked)
    assert code == 0 and "TRAINED AND TESTED ON THE SAME IMAGES" in out
    assert "by class-attention" in out and "by truth" not in out
    code, out, _ = run(*asked, "--train-data", "train", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["rows"][0]["images"] == 6 and answer["settings"]["train_data"].startswith("sha256:")
    assert "SAME IMAGES" not in run(*asked, "--train-data", "train")[1]
    code, _, err = run(*asked, "--rankings", "norm,truth")
    assert code == 2 and "--rankings truth is not possible with this model and images (truth cannot choose here" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--k", "5", "--keep", "0.1"], 2, "either --k"),
        (["--k", "5,x"], 2, "--k 5,x is not possible; give whole numbers, one or several: --k 5,10,20"),
        (["--k", "0"], 2, "--k 1 to --k 196"),
        (["--k", "5,197"], 2, "--k 1 to --k 196"),
        (["--keep", "1.5"], 2, "share in (0, 1]"),
        (["--seeds", ""], 2, "--seeds"),
        (["--seeds", "0,-1"], 2, "a whole number of at least 0"),
        (["--seeds", "0,a"], 2, "--seeds 0,a"),
        (["--steps", "0"], 2, "--steps 0"),
        (["--tau", "2"], 2, "2.0:0.1, or own"),
        (["--tau", "2:0"], 2, "a positive number"),
        (["--tau", "own,2"], 2, "--tau 2 is not possible; give two temperatures, 2.0:0.1, or own"),
        (["--tau-steps", "0"], 2, "--tau-steps 0"),
        (["--op", "vpnoise:tau=0.3"], 2, "keep it with --tau own"),
        (["--op", "vpnose"], 2, "did you mean 'vpnoise'"),
        (["--rankings", "nrom"], 2, "did you mean 'norm'"),
        (["--learning-rate", "0"], 2, "--learning-rate 0"),
        (["--images", "0"], 2, "--images 0"),
        (["--workers", "0"], 2, "--workers 0"),
        (["--figure", "f.jpg"], 2, "not a known kind"),
        (["--train-data", "somewhere"], 2, "--train-data without --data"),
        (["--op", "hard", "--baseline", "hard"], 1, "gives the scorer no gradient"),
        (["--op", "nan.py:Nan", "--baseline", "nan.py:Nan"], 1, "loss is not finite at training step 1 (image ids 1"),
    ],
)
def test_wrong_input_is_one_clear_line_and_nothing_is_stored(run, tmp_path, arguments, code, words):
    (tmp_path / "nan.py").write_text(
        "from gradprobe import Selection\n"
        "def Nan(patches, scores, k, noise):\n    return Selection(patches * scores[..., None] / 0, scores)\n"
    )
    got, out, err = run(*QUICK, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert got == code and not out, err
    assert len(lines) == 1 and words in lines[0], err
    assert "Traceback" not in err and not list(tmp_path.glob("runs/*/*.npz"))

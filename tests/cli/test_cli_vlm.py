"""Vision-language models on the command line: the same probes by ``--task``, and commands of their own."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gradprobe as gp

ASKED = ["--task", "scenes-vlm", "--op", "vpnoise", "--k", "11", "--scorer", "mlp:width=8"]


def test_nothing_of_transformers_is_imported_before_it_is_asked_for():
    program = (
        "import sys, gradprobe, gradprobe.cli, gradprobe.vlm; print([m for m in sys.modules if 'transformers' in m])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


@pytest.mark.parametrize(("model", "data"), [("scenes-vlm", "pictures"), ("photos-vlm", "photos")])
def test_coherence(run, model, data):
    asked = [model if word == "scenes-vlm" else word for word in ASKED]
    code, out, _ = run("coherence", *asked, "--batches", "3", "--batch-size", "4", "--json")
    answer = json.loads(out)
    told = answer["settings"]
    assert code == 0 and (told["task"], told["backbone"], told["data"]) == ("captioning", model, data)
    assert [row["op"] for row in answer["rows"]] == ["gumbel-ste+gather", "lapsum+vpnoise"]
    assert all(np.isfinite(row["coherence"]) for row in answer["rows"])
    again = run("coherence", *asked, "--batches", "3", "--batch-size", "4")[1]
    assert again.count("from the store") == 2  # the question holds all that decides the answer


def test_landscape(run):
    code, out, _ = run("landscape", *ASKED, "--line", "--grid", "5", "--images", "4", "--baseline", "none", "--json")
    assert code == 0 and np.isfinite(json.loads(out)["rows"][0]["loss"])


def test_fidelity(run):
    small = ["--images", "4", "--held-out", "4", "--draws", "32", "--noise-draws", "3", "--sigma", "1"]
    code, out, _ = run("fidelity", *ASKED, *small, "--baseline", "none", "--json")
    assert code == 0 and np.isfinite(json.loads(out)["rows"][0]["loss"])


def test_retention_by_kind_and_its_scorer_deploys(run, tmp_path):
    small = ["--images", "16", "--batch-size", "4", "--steps", "2", "--seeds", "1", "--denoiser", "token"]
    code, out, _ = run("retention", *ASKED, *small, "--baseline", "none", "--rankings", "random,truth")
    assert code == 0
    told = " ".join(out.split())
    assert "lapsum+vpnoise (token denoiser)" in told and "by truth at K = 11: relations" in told
    path, model, k = re.search(
        r'load_scorer\("(.+?)"\)\s+pruned = gp\.vlm\.Pruner\(gp\.vlm\.open_vlm\("(.+?)"\), scorer, '
        r"gp\.vlm\.Budget\(k=(\d+)\)\)", out
    ).groups()  # fmt: skip
    pruned = gp.vlm.Pruner(gp.vlm.open_vlm(model), gp.load_scorer(path), gp.vlm.Budget(k=int(k)))
    task = gp.vlm.captioning("scenes-vlm")
    (batch,) = task.batches(1, 1, 0)
    prompt = batch.target.caption.prompt
    example = task.source.probe(0, 1, 0)[0]
    inputs = {"input_ids": prompt.input_ids, "pixel_values": example.image()[None]}
    assert [len(kept) for kept in pruned.kept(inputs)[0]] == [11]
    shown = json.loads(run("list", "--json")[1])
    assert {e["question"].get("denoiser") for e in shown} == {"token", None}


def test_captions_hold_their_test_images_out_of_the_training(run, tmp_path):
    lines = []
    for i in range(24):
        Image.new("RGB", (80, 80), (10 * i, 100, 200)).save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png", "caption": "a red digit", "question": "which digit", "answer": "seven"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    small = ["--images", "2", "--batch-size", "2", "--steps", "1", "--seeds", "1", "--rankings", "none"]
    code, out, _ = run("retention", *ASKED, *small, "--baseline", "none", "--data", str(tmp_path))
    assert code == 0 and "K = 11 of 100" in out and "SAME IMAGES" not in out


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--backbone", "deit_tiny_patch16_224"], "either --task scenes-vlm"),
        (["--layer", "2"], "before its projector"),
        (["--loss", "kl"], "--loss ce"),
        (["--weights", "x.pth"], "name a folder"),
        (["--k", "101"], "100 tokens"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(run, extra, told):
    asked = [*ASKED, "--batches", "3"]
    if extra[0] == "--k":
        asked[asked.index("--k") + 1] = extra[1]
        extra = []
    code, out, err = run("coherence", *asked, *extra)
    assert code == 2 and told in err and len(err.strip().splitlines()) == 1 and not out


def test_an_unknown_model_is_refused(run, tmp_path):
    code, _, err = run("coherence", "--op", "vpnoise", "--task", str(tmp_path / "nothing"), "--k", "3")
    assert code == 2 and "no folder" in err
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    code, _, err = run("coherence", "--op", "scale", "--task", str(tmp_path / "bert"), "--k", "3")
    assert code == 2 and "possible: llava, llava_next, " in " ".join(err.split())

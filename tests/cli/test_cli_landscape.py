"""``gradprobe landscape`` as a user meets it: prints, stores, draws, goes on after a kill, refuses in one line."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from stored import array_bytes

import gradprobe as gp
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.scorers import MLP
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.store.results import Store

SMALL = ["--k", "58", "--images", "3", "--weights", "none", "--scorer", "mlp:width=32"]
LINE = ["landscape", *SMALL, "--line", "--grid", "9"]


def test_a_plane_prints_stores_and_draws(run, tmp_path):
    code, out, _ = run(
        "landscape", "--op", "vpnoise", *SMALL, "--grid", "5x7", "--figure", "f.png", "--surface", "s.svg"
    )  # fmt: skip
    assert code == 0
    for words in ("along d2", "along d1", "exponent", "cos(d1, d2)", "RANDOM WEIGHTS", "stored: runs/landscape/"):
        assert words in out
    assert re.search(
        r"lapsum\+vpnoise: mean step along d2 is .* times that of gumbel-ste\+gather, .*5x7 grid",
        out.replace("\n", " "),
    )
    assert (tmp_path / "f.png").stat().st_size > 5000 and (tmp_path / "s.svg").stat().st_size > 5000


def test_json_is_one_object_and_the_store_answers_again(run, tmp_path):
    code, out, _ = run(*LINE, "--op", "scale", "--json")
    printed = json.loads(out)
    assert code == 0 and printed["settings"]["grid"] == "9" and printed["settings"]["baseline"] == "gumbel-ste+gather"
    first, second = printed["rows"]
    assert "d2_ratio" not in first and second["d2_ratio"] > 0 and "d1_variation" not in second
    assert "from the store" in run(*LINE, "--op", "scale")[1]
    assert "from the store" not in run(*LINE, "--op", "scale", "--force")[1]
    listed = run("list")[1]
    assert "landscape" in listed and "9, 3 images" in listed
    key = run("list", "--json")[1]
    shown = run("show", json.loads(key)[0]["key"])[1]
    assert "steps |L(i+1) - L(i)| along d2, 0.075 apart" in shown
    assert not list(tmp_path.glob("runs/*/*.partial"))


def test_a_trajectory_and_checkpoints(run, tmp_path):
    code, out, _ = run(
        *LINE, "--op", "scale", "--baseline", "none", "--axes", "pca", "--steps", "3", "--batch-size", "2"
    )
    assert code == 0 and "of the trajectory's squared" in out
    dim = gp.classification("scenes", weights="none").backbone.dim
    for i in range(2):
        scorer = MLP(width=32).make(dim, i)
        save_file({n: p.detach() for n, p in scorer.named_parameters()}, tmp_path / f"{i}.safetensors")
    code, out, _ = run(*LINE, "--op", "scale", "--axes", "checkpoints:0.safetensors,1.safetensors")
    assert code == 0 and "stored" in out and "times that of gumbel-ste+gather" in out.replace("\n", " ")
    row = json.loads(run(*LINE, "--op", "scale", "--axes", "checkpoints:0.safetensors,1.safetensors", "--json")[1])
    first = Store("runs").load(Path(row["rows"][1]["path"]))
    where = {"checkpoints": "0.safetensors,1.safetensors"}
    again = answered(first.question, where, [Store("elsewhere")], OpenTasks()).result
    assert again.question == first.question and again.losses.tobytes() == first.losses.tobytes()
    with pytest.raises(UsageError, match=r"is the fingerprint of a checkpoint.* where = "):
        answered(first.question, {}, [Store("nowhere")], OpenTasks())
    where = {"checkpoints": "1.safetensors,0.safetensors"}
    with pytest.raises(GradprobeError, match="the question is about checkpoints sha256"):
        answered(first.question, where, [Store("nowhere")], OpenTasks())


def test_lists_ask_each_combination_and_compare_like_with_like(run, tmp_path):
    typed = ["landscape", *SMALL, "--op", "scale", "--grid", "5,3x5", "--noise", "common,fresh", "--steps", "0,1"]
    typed += ["--batch-size", "2"]
    code, out, _ = run(*typed, "--json")
    printed = json.loads(out)
    rows, settings = printed["rows"], printed["settings"]
    assert code == 0 and len(rows) == 2 * 8 and len({row["path"] for row in rows}) == 16
    assert {"grid", "noise", "steps"}.isdisjoint(settings) and settings["train_batch"] == 2
    assert [(r["grid"], r["noise"], r["steps"]) for r in rows[:8]] == [
        (grid, noise, steps) for grid in ("5", "3x5") for noise in ("common", "fresh") for steps in (0, 1)
    ]
    first, second = (Store("runs").load(Path(row["path"])) for row in (rows[1], rows[9]))
    assert rows[9]["d2_ratio"] == second.row(baseline=first)["d2_ratio"] > 0
    code, out, _ = run(*typed, "--page", "p.html", "--surface", "s.svg", "--figure", "f.svg")
    words = " ".join(out.split())
    assert code == 0 and "lapsum+scale (grid = 3x5, noise = fresh, steps = 1): mean step along d1 is" in words
    drawn = (tmp_path / "f.svg").read_text()
    assert "lapsum+scale @1 fresh noise grid 3x5" in drawn


def test_axes_are_a_list_too_and_a_principal_plane_has_no_baseline(run):
    typed = [*LINE, "--op", "scale", "--steps", "2", "--batch-size", "2", "--axes", "random,pca", "--json"]
    code, out, _ = run(*typed)
    rows = json.loads(out)["rows"]
    assert code == 0 and [row["axes"] for row in rows] == ["random", "pca"] * 2
    assert ["d2_ratio" in row for row in rows] == [False, False, True, False]


def test_a_killed_run_goes_on_to_the_same_bytes_whatever_the_workers(tmp_path):
    typed = ["landscape", *SMALL, "--op", "vpnoise", "--baseline", "none", "--grid", "40x3"]

    def command(where, workers):
        more = ["--workers", str(workers), "--results", str(tmp_path / where)]
        return [sys.executable, "-m", "gradprobe", *typed, *more]

    killed = subprocess.Popen(command("a", 2), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for _ in range(6000):
        journals = list(tmp_path.glob("a/*/*.partial/*.journal"))
        if killed.poll() is not None or (journals and journals[0].stat().st_size > 32 + 3 * 88):  # three rows
            break
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert list(tmp_path.glob("a/*/*.partial")) and not list(tmp_path.glob("a/*/*.npz")), "not killed half-way"
    for where, workers in (("a", 1), ("b", 2)):
        subprocess.run(command(where, workers), check=True, capture_output=True)
    one, other = (next(tmp_path.glob(f"{where}/landscape/*.npz")) for where in "ab")
    assert array_bytes(one) == array_bytes(other) and not list(tmp_path.glob("a/*/*.partial"))
    with np.load(one) as file:
        assert file["losses"].shape == (40, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "3by3"], "61x31"),
        (["--grid", "5x5"], "has more; give its points"),
        (["--noise", "shared"], "common"),
        (["--axes", "hessian"], "possible"),
        (["--axes", "checkpoints"], "checkpoints:A,B"),
        (["--axes", "checkpoints:no.safetensors,0"], "no.safetensors"),
        (["--axes", "checkpoints:0,gone.pth"], "gone.pth of --axes checkpoints:0,gone.pth does not exist"),
        (["--grid", ""], "--grid '' is not possible"),
        (["--axes", "checkpoints:sha256:0af164d9dc507fd8,0"], "is the fingerprint of a checkpoint"),
        (["--axes", "random,hessian"], "--axes hessian is not possible"),
        (["--params", "blocks.*"], "hidden.weight"),
        (["--reach", "0"], "a positive number"),
        (["--reach", "far"], "--reach far is not possible; give numbers, one or several: --reach 0.1,0.3"),
        (["--reach", "0.1", "--axes", "pca", "--steps", "9"], "are for --axes random"),
        (["--images", "-1"], "--images -1"),
        (["--workers", "0"], "--workers 0"),
        (["--figure", "plot.jpg"], "not a known kind"),
        (["--page", "page.pdf"], ".html"),
        (["--surface", "plane.png"], "not a line"),
        (["--surface", "plane.png", "--grid", "1x9"], "not a line"),
    ],
)
def test_wrong_input_is_one_clear_line_and_nothing_is_stored(run, tmp_path, arguments, words):
    code, out, err = run(*LINE, "--op", "scale", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.glob("runs/*/*.npz"))

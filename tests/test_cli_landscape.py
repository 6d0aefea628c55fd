"""``gradprobe landscape`` as a user meets it: prints, stores, draws, goes on after a kill, refuses in one line."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import save_file
from stored import array_bytes
from test_cli import run  # noqa: F401  # a fixture

import gradprobe as gp
from gradprobe.models.scorers import MLP

SMALL = ["--k", "58", "--images", "3", "--weights", "none", "--scorer", "mlp:width=32"]
LINE = ["landscape", *SMALL, "--line", "--grid", "9"]


def test_a_plane_prints_stores_and_draws(run, tmp_path):  # noqa: F811
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


def test_json_is_one_object_and_the_store_answers_again(run, tmp_path):  # noqa: F811
    code, out, _ = run(*LINE, "--op", "scale", "--json")
    told = json.loads(out)
    assert code == 0 and told["settings"]["grid"] == "9" and told["settings"]["baseline"] == "gumbel-ste+gather"
    first, second = told["rows"]
    assert "d2_ratio" not in first and second["d2_ratio"] > 0 and "d1_variation" not in second
    assert "from the store" in run(*LINE, "--op", "scale")[1]
    assert "from the store" not in run(*LINE, "--op", "scale", "--force")[1]
    listed = run("list")[1]
    assert "landscape" in listed and "9, 3 images" in listed
    key = run("list", "--json")[1]
    shown = run("show", json.loads(key)[0]["key"])[1]
    assert "stepwise" in shown or "along d2" in shown
    assert not list(tmp_path.glob("runs/*/*.partial"))


def test_a_trajectory_and_checkpoints(run, tmp_path):  # noqa: F811
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


def test_a_killed_run_goes_on_to_the_same_bytes_whatever_the_workers(tmp_path):
    asked = ["landscape", *SMALL, "--op", "vpnoise", "--baseline", "none", "--grid", "40x3"]

    def command(where, workers):
        more = ["--workers", str(workers), "--results", str(tmp_path / where)]
        return [sys.executable, "-m", "gradprobe", *asked, *more]

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
        (["--params", "blocks.*"], "hidden.weight"),
        (["--reach", "0"], "a positive number"),
        (["--images", "-1"], "--images -1"),
        (["--workers", "0"], "--workers 0"),
        (["--figure", "plot.jpg"], "not a known kind"),
        (["--page", "page.pdf"], ".html"),
        (["--surface", "plane.png"], "not a line"),
    ],
)
def test_wrong_input_is_one_clear_line_and_nothing_is_stored(run, tmp_path, arguments, words):  # noqa: F811
    code, out, err = run(*LINE, "--op", "scale", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.glob("runs/*/*.npz"))

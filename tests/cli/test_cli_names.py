"""Names from outside come out of every command escaped, and none of them stops it, least of all after the computing."""

import json
import re

import pytest
from PIL import Image

OP = "o[/x] \x1b[31m $\\frac{ <!--<script> \u202e.py"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SMALL = ["--k", "5", "--baseline", "none", "--weights", "none", "--loss", "kl"]
CODE = """
from gradprobe import Selection
def Op(patches, scores, k, noise):
    weights = scores.sigmoid()
    return Selection(patches * weights[..., None], weights)
"""


@pytest.fixture
def outside(tmp_path):
    """An operator, a folder of images with one that cannot be read, and a results folder, all with hostile names."""
    (tmp_path / OP).parent.mkdir()
    (tmp_path / OP).write_text(CODE)
    folder = tmp_path / "d[" / "z]\x1b[2J"
    folder.mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (20, 20), (30 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "a[red]\x9b.png").write_bytes(b"no image")
    return ["--op", f"{OP}:Op", "--data", "d[/z]\x1b[2J", "--results", "r[/y]\x1b[31m", *SMALL]


def checked(outcome):
    code, out, err = outcome
    assert code == 0, err
    assert not STEERING.search(out)
    bars = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", err)
    assert not STEERING.search(bars)
    assert "Traceback" not in err
    return out


def test_coherence_list_and_show(run, outside, tmp_path):
    arguments = ["coherence", *outside, "--batches", "3", "--batch-size", "2"]
    out = checked(run(*arguments, "--figure", "f[.svg"))
    assert "o[/x]" in re.sub(r"\s", "", out)
    assert "a[red]\\x9b.png" in re.sub(r"\s", "", out)
    figure = (tmp_path / "f[.svg").read_text(encoding="utf-8")
    assert "<script>" not in re.sub("<!--.*?-->", "", figure)
    rows = json.loads(checked(run(*arguments, "--json")))["rows"]
    assert rows[0]["op"] == f"{OP}:Op"  # as it was typed
    checked(run("list", "--results", "r[/y]\x1b[31m"))
    (stored,) = (tmp_path / "r[").glob("*/coherence/*.npz")
    checked(run("show", stored.stem, "--results", "r[/y]\x1b[31m"))


def test_landscape_and_its_page(run, outside, tmp_path):
    pytest.importorskip("plotly")
    checked(run("landscape", *outside, "--grid", "3x3", "--images", "2", "--figure", "f.svg", "--page", "p.html"))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    data = page[page.rindex("const page") :]
    assert "<!--" not in data
    assert data.count("<script") == 0
    assert "\u202e" not in page


@pytest.mark.parametrize("arguments", [["check", f"{OP}:Op"], ["cite", "--op", f"{OP}:Op"]])
def test_commands_of_names_alone(run, outside, arguments):
    code, out, err = run(*arguments)
    assert code in (0, 1)
    assert not STEERING.search(out)
    assert not STEERING.search(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", err))
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["coherence", "--op", "no\x1b[31m.py:Op", "--k", "5"], ["coherence", "--op", "\u202e", "--k", "5"],
        ["show", "\x1b[31m"], ["list", "--results", "\x1b[31m\n"], ["figures", "\x1b[31m"],
        ["cite", "--backbone", "\x9b"],
        ["vlm", "generate", "--pruner", "\x1b[31m", "--image", "\x1b[2J", "--prompt", "x"], ["\x1b[31m"],
        ["vlm", "cost", "--model", "\x1b[31m\udcff"], ["coherence", "--\x1b[31m"],
        ["vlm", "train", "--model", "\x1b", "--out", "\x9b"],
    ],
    ids=ascii,
)  # fmt: skip
def test_a_name_in_an_error_is_escaped(run, arguments):
    code, out, err = run(*arguments)
    assert code in (0, 1, 2)
    assert not STEERING.search(out + err)
    assert err.count("gradprobe: ") <= 1

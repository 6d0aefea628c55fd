"""``gradprobe equivalence`` as a user meets it: what it prints, stores and draws, and one line for wrong input."""

import json

import pytest
from stored import run_of

SMALL = ["--k", "58", "--images", "8"]


@pytest.fixture
def run(run, monkeypatch):
    """Run gradprobe in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return run


def rows_of(found):
    code, out, err = found
    assert code == 0, err
    return json.loads(out)["rows"]


def test_operators_are_measured_against_hard_top_k_stored_and_drawn(run, tmp_path):
    asked = ["--keep", "0.25,0.5", "--images", "8", "--op", "vpnoise"]
    code, out, err = run("equivalence", *asked, "--figure", "f.png", "--pictures", "p.png")
    assert code == 0, err
    assert max(len(line) for line in out.splitlines() if "stored" not in line) <= 80
    for words in ("K = 49 of 196", "K = 98 of 196", "top-5 [95 %]", "against", "undecided", "stored: runs/"):
        assert words in out
    assert len(list((tmp_path / "runs").glob("equivalence/*.npz"))) == 2 * 2
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert run("equivalence", *asked)[1].count("from the store") == 4


def test_json_is_one_object_with_the_promised_fields(run):
    code, out, _ = run("equivalence", *SMALL, "--json", "--margin", "0.05")
    assert code == 0
    found = json.loads(out)
    assert found["probe"] == "equivalence"
    assert found["settings"]["baseline"] == "hard+gather"
    assert found["settings"]["margin"] == 0.05
    assert "scorer" not in found["settings"]
    assert [row["op"] for row in found["rows"]] == [
        "hard+gather", "hard+zero", "lapsum:tau=0.01+mean", "lapsum:tau=0.01+scale", "lapsum:tau=0.01+vpnoise",
        "lapsum:tau=0.01+vpnoise:sigma=unit", "lapsum:tau=0.01+attention",
    ]  # fmt: skip
    wanted = {
        "top1", "top1_low", "top1_high", "top5", "top1_difference", "top1_mcnemar", "top1_tost", "top5_verdict",
        "top1_needed", "margin", "keep", "tau", "path",
    }  # fmt: skip
    assert all(wanted <= row.keys() for row in found["rows"])
    assert found["rows"][0]["top1_verdict"] is None
    verdicts = {"equivalent", "small gap", "different", "undecided"}
    assert verdicts >= {row["top1_verdict"] for row in found["rows"][1:]}


def test_the_margin_is_no_part_of_the_question(run):
    first = rows_of(run("equivalence", *SMALL, "--op", "hard+zero", "--json"))
    wide = rows_of(run("equivalence", *SMALL, "--op", "hard+zero", "--json", "--margin", "0.9"))
    assert [row["path"] for row in first] == [row["path"] for row in wide]
    assert wide[1]["top1_verdict"] == "equivalent"
    assert first[1]["top1_verdict"] == "undecided"


def test_a_typed_temperature_is_kept_and_others_are_sharp_and_on_the_ladder(run):
    ops = ["--op", "vpnoise:tau=1", "--op", "scale", "--op", "gumbel"]
    rows = rows_of(run("equivalence", *SMALL, *ops, "--sharp", "0.02", "--taus", "0.5,0.02", "--json"))
    assert [(row["op"], row["tau"]) for row in rows] == [
        ("hard+gather", None),
        ("lapsum+vpnoise", 1.0), ("lapsum:tau=0.02+vpnoise", 0.02), ("lapsum:tau=0.5+vpnoise", 0.5),
        ("lapsum:tau=0.02+scale", 0.02), ("lapsum:tau=0.5+scale", 0.5),
        ("gumbel-ste+gather", None),
    ]  # fmt: skip


def test_show_and_list_know_what_was_stored(run):
    path = rows_of(run("equivalence", *SMALL, "--op", "hard", "--json"))[0]["path"]
    code, out, err = run("show", path)
    assert code == 0, err
    assert "K = 58 of 196" in out
    listed = json.loads(run("list", "--json")[1])
    assert [entry["probe"] for entry in listed] == ["equivalence"]


def test_an_operator_of_ones_own_in_a_file(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from gradprobe import Selection\n"
        "@dataclass(frozen=True)\n"
        "class Sigmoid:\n"
        "    tau: float = 1.0\n"
        "    def __call__(self, patches, scores, k, noise):\n"
        "        weights = (scores / self.tau).sigmoid()\n"
        "        return Selection(patches * weights[..., None], weights)\n"
    )
    rows = rows_of(run("equivalence", *SMALL, "--op", "mine.py:Sigmoid", "--taus", "2", "--json"))
    assert [row["op"] for row in rows[1:]] == ["mine.py:Sigmoid:tau=0.01", "mine.py:Sigmoid:tau=2"]


PRESET = """
title = "A figure"
figure = "fig4"
baseline = "hard+gather"
claim = "Nearly identical."
[question]
probe = "equivalence"
k = [58, 120]
images = 8
seed = 0
layer = 0
loss = "ce"
dtype = "float32"
backbone = "scenes"
weights = "sha256:ec291f87e24113c1"
data = "scenes"
[[run]]
panel = "scenes"
op = ["hard+gather", "lapsum:tau=0.01+vpnoise"]
"""


def test_a_preset_is_answered_by_the_same_probe_and_drawn(run, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "fig4.toml").write_text(PRESET)
    code, out, err = run("figures")
    assert code == 0, err
    assert "fig4: 0 stored, 4 computed, 0 missing" in out
    svg = (tmp_path / "figures" / "fig4.svg").read_text()
    assert svg.count("<image") == 2 * 7  # a row of pictures for each K
    code, out, err = run("figures", "--draw-only", "--out", "paper", "--format", "png, PDF")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "paper").iterdir()) == ["fig4.pdf", "fig4.png"]
    assert (tmp_path / "paper" / "fig4.pdf").read_bytes().startswith(b"%PDF")
    code, _, err = run("figures", "--draw-only", "--format", "png,gif")
    assert code == 2 and ".gif is not a known kind; use .png, .svg or .pdf" in err
    rows = rows_of(run("equivalence", *SMALL, "--op", "vpnoise", "--json"))
    assert [row["path"] for row in rows] == [
        str(path.relative_to(tmp_path))
        for op in ("hard+gather", "lapsum:tau=0.01+vpnoise")
        for path in tmp_path.glob("runs/*/*.npz")
        if run_of(path)["question"] | {"op": op, "k": 58} == run_of(path)["question"]
    ]


def test_a_stopped_run_goes_on_where_it_was(run, monkeypatch, tmp_path):
    from gradprobe.probes.equivalence import measure as probe

    original = probe.measure

    def stops(subject, settings, resources):
        if "Zero" in repr(subject.operator):
            raise KeyboardInterrupt
        return original(subject, settings, resources)

    monkeypatch.setattr(probe, "measure", stops)
    code, _, err = run("equivalence", *SMALL, "--op", "hard+zero")
    assert code == 130
    assert "stopped" in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert "from the store" in run("equivalence", *SMALL, "--op", "hard+zero")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "either --k"),
        (["--k", "58", "--keep", "0.3"], 2, "either --k"),
        (["--k", "58,many"], 2, "--k 29,58"),
        (["--k", "58,0"], 2, "--k 1 to --k 196"),
        (["--k", "197"], 2, "--k 1 to --k 196"),
        (["--keep", "0.3,1.5"], 2, "share in (0, 1]"),
        (["--keep", "half"], 2, "--keep 0.1,0.3"),
        (["--k", "58", "--margin", "0"], 2, "--margin 0"),
        (["--k", "58", "--margin", "1.5"], 2, "--margin 1.5"),
        (["--k", "58", "--sharp", "0"], 2, "a positive number"),
        (["--k", "58", "--taus", "0.1;1"], 2, "--taus 0.1;1"),
        (["--k", "58", "--taus", "0.1,-1"], 2, "a positive number"),
        (["--k", "58", "--taus", ""], 2, "--taus '' is not possible"),
        (["--k", "58", "--margin=5%"], 2, "--margin 5% is not possible; give a number from 0 to 1"),
        (["--k", "58", "--images", "0"], 2, "--images 0"),
        (["--k", "58", "--workers", "0"], 2, "--workers 0"),
        (["--k", "58", "--op", "vpnose"], 2, "did you mean 'vpnoise'"),
        (["--k", "58", "--loss", "mse"], 2, "Known: ce, kl"),
        (["--k", "58", "--data", "nowhere"], 2, "does not exist"),
        (["--k", "58", "--figure", "bars.xyz"], 2, "bars.xyz"),
        (["--k", "58", "--pictures", "p.gif"], 2, "p.gif"),
        (["--k", "58", "--images", "8", "--op", "wrong.py:Explodes"], 1, "loss that is not finite"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_one_line_and_leaves_nothing_of_it(run, tmp_path, arguments, code, words):
    (tmp_path / "wrong.py").write_text(
        "from gradprobe import Selection\n"
        "def Explodes(patches, scores, k, noise):\n    return Selection(patches / 0 * scores[..., None], scores)\n"
    )
    got, out, err = run("equivalence", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert got == code, err
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in err + out
    assert len(list(tmp_path.glob("runs/*/*.npz"))) == (1 if "wrong.py:Explodes" in arguments else 0)  # the baseline

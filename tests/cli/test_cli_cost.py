"""``gradprobe cost`` as a user meets it: prints, stores, measures again, refuses in one line."""

import json

import pytest

SMALL = ["cost", "--op", "vpnoise", "--k", "8", "--images", "1", "--rounds", "6", "--scorer", "mlp:width=8"]
RANDOM = ["--weights", "none"]


def test_it_prints_stores_and_draws(run, tmp_path):
    code, out, _ = run(*SMALL, *RANDOM, "--op", "hard", "--figure", "f.png")
    told = " ".join(out.split())
    assert code == 0
    for words in (
        "RANDOM WEIGHTS", "gumbel-ste+gather", "training [95 %]", "GFLOPs an image", "times as long as with gumbel-ste",
        "hard+gather: no gradient reaches the scores", "medians over 6 rounds on 1 image,", "stored: runs/cost/",
    ):  # fmt: skip
        assert words in told
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert len(list(tmp_path.glob("runs/cost/*.npz"))) == 3


def test_json_the_store_and_measuring_again(run):
    code, out, _ = run(*SMALL, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["probe"] == "cost"
    assert answer["settings"]["baseline"] == "gumbel-ste+gather" and answer["settings"]["device"] == "cpu"
    base, row = answer["rows"]
    assert (base["op"], row["op"]) == ("gumbel-ste+gather", "lapsum+vpnoise")
    assert base["ratio"] is None and row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["flops_training"] == row["flops_unpruned"] > base["flops_training"] == row["flops_deployed"]
    assert row["memory"] > base["memory"] > 0 and row["training"] > base["training"] > 0
    assert json.loads(run(*SMALL, "--json")[1])["rows"] == answer["rows"]  # stored: seconds too
    assert run(*SMALL)[1].count("from the store") == 2
    again = json.loads(run(*SMALL, "--json", "--force")[1])["rows"][1]
    exact = [name for name in row if name.startswith("flops") or "memory" in name or name in ("sent", "path", "op")]
    assert [again[name] for name in exact] == [row[name] for name in exact]
    assert again["training_ms"] != row["training_ms"]
    shown = run("show", answer["rows"][1]["path"].rpartition("-")[2])[1]
    assert "lapsum+vpnoise" in shown and "deployed [95 %]" in shown
    assert "1 images" in " ".join(run("list")[1].split())


def test_keep_is_a_share_and_there_may_be_no_baseline(run):
    out = run("cost", "--op", "hard", "--keep", "0.05", *SMALL[5:], *RANDOM, "--baseline", "none", "--json")[1]
    answer = json.loads(out)
    assert answer["settings"]["baseline"] is None and [row["k"] for row in answer["rows"]] == [10]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--op", "vpnose", "--k", "8"], 2, "did you mean 'vpnoise'"),
        (["--op", "vpnoise", "--k", "0"], 2, "--k 1 to --k 196"),
        (["--op", "vpnoise"], 2, "either --k"),
        (["--op", "vpnoise", "--k", "8", "--keep", "0.1"], 2, "either --k"),
        (["--op", "vpnoise", "--k", "8", "--rounds", "5"], 2, "--rounds 5"),
        (["--op", "vpnoise", "--k", "8", "--images", "0"], 2, "--images 0"),
        (["--op", "vpnoise", "--k", "8", "--images", "many"], 2, "--images many is not possible; give whole numbers"),
        (["--op", "vpnoise", "--k", "8", "--device", "quantum"], 2, "--device quantum"),
        (["--op", "vpnoise", "--k", "8", "--data", "nowhere"], 2, "does not exist"),
        (["--op", "vpnoise", "--k", "8", "--figure", "f.xyz"], 2, "f.xyz"),
        (["--op", "wrong.py:Shape", "--k", "8", "--baseline", "none"], 1, "returned weights of shape"),
        (["--op", "wrong.py:Explodes", "--k", "8", "--baseline", "none"], 1, "loss that is not finite"),
        (["--op", "wrong.py:Raises", "--k", "8", "--baseline", "none"], 1, "ValueError: I am broken"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(run, tmp_path, arguments, code, words):
    (tmp_path / "wrong.py").write_text(
        "from gradprobe import Selection\n"
        "def Shape(patches, scores, k, noise):\n    return Selection(patches, scores[:, :2])\n"
        "def Explodes(patches, scores, k, noise):\n    return Selection(patches / 0 * scores[..., None], scores)\n"
        "def Raises(patches, scores, k, noise):\n    raise ValueError('I am broken')\n"
    )
    got, out, err = run("cost", *arguments, *RANDOM)
    lines = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert got == code, err
    assert len(lines) == 1 and words in lines[0], err
    assert "Traceback" not in err + out
    assert not list(tmp_path.glob("runs/*/*.npz"))

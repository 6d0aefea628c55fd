"""The command line as a user meets it: what it prints, what it stores, and one clear line for each wrong input."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gradprobe import cli

SMALL = ["--k", "58", "--batches", "3", "--batch-size", "2"]
RANDOM = ["--weights", "none"]
PHOTOS = ["--op", "vpnoise", "--k", "58", "--loss", "kl", *RANDOM]


def test_coherence_prints_stores_and_draws(run, tmp_path):
    code, out, _ = run("coherence", "--op", "vpnoise", *SMALL, *RANDOM, "--figure", "bars.png")
    assert code == 0
    for words in (
        "gumbel-ste+gather",
        "lapsum+vpnoise",
        "C_data",
        "m-coh",
        "RANDOM WEIGHTS",
        "stored: runs/coherence/",
    ):
        assert words in out
    assert "ratio of C to gumbel-ste+gather unbounded" in out
    assert (tmp_path / "bars.png").stat().st_size > 5000
    assert len(list((tmp_path / "runs").glob("coherence/*.npz"))) == 2


def test_the_same_question_is_answered_from_the_store(run):
    first = run("coherence", "--op", "scale", *SMALL, *RANDOM, "--json")
    again = run("coherence", "--op", "scale", *SMALL, *RANDOM)
    assert "from the store" in again[1]
    forced = run("coherence", "--op", "scale", *SMALL, *RANDOM, "--force")
    assert "from the store" not in forced[1]
    assert (
        json.loads(first[1])["rows"]
        == json.loads(run("coherence", "--op", "scale", *SMALL, *RANDOM, "--json")[1])["rows"]
    )


def test_json_is_one_object_with_the_promised_fields(run):
    code, out, _ = run(
        "coherence",
        "--op",
        "hard",
        "--op",
        "scale",
        *SMALL,
        *RANDOM,
        "--steps",
        "0,1",
        "--baseline",
        "gumbel",
        "--json",
    )
    assert code == 1  # hard cannot train: said, and what was measured before it stays
    code, out, _ = run("coherence", "--op", "hard", "--op", "scale", *SMALL, *RANDOM, "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["probe"] == "coherence"
    assert answer["settings"]["k"] == 58
    assert [row["op"] for row in answer["rows"]] == ["gumbel-ste+gather", "hard+gather", "lapsum+scale"]
    wanted = {
        "op", "coherence", "low", "high", "centred", "common_mode", "c_data", "c_op", "grad_norm", "m_coherence",
        "noise_scale", "ratio", "ratio_reason", "path",
    }  # fmt: skip
    assert all(wanted <= row.keys() for row in answer["rows"])
    hard = answer["rows"][1]
    assert hard["gradient"] == "none"
    assert hard["coherence"] is hard["ratio"] is None
    assert "undefined" in hard["ratio_reason"]


def test_keep_is_a_share_of_the_tokens(run):
    out = run("coherence", "--op", "scale", "--keep", "0.3", *SMALL[2:], *RANDOM, "--baseline", "none", "--json")[1]
    assert json.loads(out)["settings"]["k"] == 59


def test_training_steps_are_rows_of_their_own(run):
    out = run("coherence", "--op", "scale", *SMALL, *RANDOM, "--steps", "0,2", "--json")[1]
    rows = json.loads(out)["rows"]
    assert [(row["op"], row["steps"]) for row in rows] == [
        ("gumbel-ste+gather", 0), ("gumbel-ste+gather", 2), ("lapsum+scale", 0), ("lapsum+scale", 2)
    ]  # fmt: skip
    assert rows[2]["coherence"] != rows[3]["coherence"]


def test_lists_that_multiply_ask_each_question_once_and_tell_the_rows_apart(run):
    lists = ["--steps", "0,1", "--learning-rate", "1e-3,1e-2", "--baseline", "none"]
    out = run("coherence", "--op", "scale", *SMALL, *RANDOM, *lists, "--json")[1]
    rows = json.loads(out)["rows"]
    assert [(row["steps"], row["learning_rate"]) for row in rows] == [(0, None), (1, 1e-3), (1, 1e-2)]
    words = " ".join(run("coherence", "--op", "scale", *SMALL, *RANDOM, *lists)[1].split())
    assert all(label in words for label in ("lapsum+scale @0", "= 0.001) @1", "= 0.01) @1"))


def test_list_and_show_find_what_was_stored(run):
    run("coherence", "--op", "scale", *SMALL, *RANDOM)
    code, out, _ = run("list", "--json")
    assert code == 0
    keys = [entry["key"] for entry in json.loads(out)]
    assert len(keys) == 2
    code, out, _ = run("show", keys[0][:6])
    assert code == 0
    assert keys[0] in out


def test_an_operator_of_ones_own_in_a_file(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from gradprobe import Selection\n"
        "@dataclass(frozen=True)\n"
        "class Sigmoid:\n"
        "    slope: float = 1.0\n"
        "    def __call__(self, patches, scores, k, noise):\n"
        "        weights = (self.slope * scores).sigmoid()\n"
        "        return Selection(patches * weights[..., None], weights)\n"
    )
    out = run("coherence", "--op", "mine.py:Sigmoid:slope=2", *SMALL, *RANDOM, "--json")[1]
    row = json.loads(out)["rows"][1]
    assert row["op"] == "mine.py:Sigmoid:slope=2"
    assert row["gradient"] == "yes"


def folder(path, names=("a", "b", "c", "d", "e", "f"), classes=("x", "y")):
    for i, name in enumerate(names):
        place = path / classes[i % len(classes)] if classes else path
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (130, 120), (40 * i, 100, 200)).save(place / f"{name}.png")
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--op", "vpnose", "--k", "58"], 2, "did you mean 'vpnoise'"),
        (["--op", "vpnoise:tua=1", "--k", "58"], 2, "did you mean 'tau'"),
        (["--op", "hard:tau=1", "--k", "58"], 2, "hard has no field 'tau'; there is none"),
        (["--op", "vpnoise", "--k", "0"], 2, "--k 1 to --k 196"),
        (["--op", "vpnoise", "--k", "197"], 2, "--k 1 to --k 196"),
        (["--op", "vpnoise", "--k", "58,197", *SMALL[2:], *RANDOM], 2, "--k 1 to --k 196"),
        (["--op", "vpnoise", "--k", "58", "--keep", "0.3"], 2, "either --k"),
        (["--op", "vpnoise"], 2, "either --k"),
        (["--op", "vpnoise", "--keep", "1.5"], 2, "share in (0, 1]"),
        (["--k", "58"], 2, "--op"),
        (["--op", "vpnoise", "--k", "many"], 2, "--k many is not possible; give whole numbers"),
        (["--op", "vpnoise", "--k", "58", "--steps", "0,x"], 2, "--steps 0,x"),
        (["--op", "vpnoise", "--k", "58", "--batches", "2"], 2, "--batches 2"),
        (["--op", "vpnoise", "--k", "58", "--draws", "1"], 2, "--draws 1"),
        (["--op", "vpnoise", "--k", "58", "--loss", "mse"], 2, "Known: ce, kl"),
        (["--op", "vpnoise", "--k", "58", "--dtype", "float8"], 2, "--dtype float8"),
        (["--op", "vpnoise", "--k", "58", "--scorer", "mpl"], 2, "did you mean 'mlp'"),
        (["--op", "vpnoise", "--k", "58", "--scorer", "mlp:widht=5"], 2, "did you mean 'width'"),
        (["--op", "vpnoise", "--k", "58", "--layer", "9"], 2, "--layer 0 to --layer 4"),
        (["--op", "vpnoise", "--k", "58", "--weights", "gone.pth"], 2, "does not exist"),
        (["--op", "vpnoise", "--k", "58", "--weights", "corrupt.pth"], 1, "corrupt.pth"),
        (["--op", "vpnoise", "--k", "58", "--weights", "other.safetensors"], 2, "another model"),
        (["--op", "vpnoise", "--k", "58", "--data", "nowhere", *RANDOM], 2, "does not exist"),
        (["--op", "vpnoise", "--k", "58", "--data", "empty", *RANDOM], 2, "no image"),
        (["--op", "vpnoise", "--k", "58", "--data", "", *RANDOM], 2, "--data '' is not possible"),
        (["--op", "vpnoise", "--k", "58", "--results=", *RANDOM], 2, "--results '' is not possible"),
        (["--op", "vpnoise", "--k", "58", "--data", "photos", *RANDOM], 2, "use --loss kl"),
        ([*PHOTOS, "--data", "photos"], 2, "6 images and 512 are needed"),
        ([*PHOTOS, "--data", "broken", *SMALL[2:]], 1, "can be read"),
        (["--op", "vpnoise", "--k", "58", "--backbone", "deit_tiny_patch16_224", *RANDOM], 2, "--data DIR"),
        (["--op", "vpnoise", "--k", "58", "--backbone", "diet_tiny_patch16_224", *RANDOM], 2, "deit_tiny_patch16_224"),
        (["--op", "vpnoise", "--k", "58", "--backbone", "resnet18", *RANDOM], 2, "cannot be split"),
        (["--op", "vpnoise", "--k", "58", "--device", "quantum", *RANDOM], 2, "--device quantum"),
        (["--op", "vpnoise", "--k", "58", "--figure", "bars.xyz", *SMALL[2:], *RANDOM], 2, "bars.xyz"),
        (["--op", "gone.py:Op", "--k", "58"], 2, "no such file"),
        (["--op", "wrong.py:Shape", *SMALL, *RANDOM, "--baseline", "none"], 1, "returned weights of shape"),
        (["--op", "wrong.py:Changes", *SMALL, *RANDOM, "--baseline", "none"], 1, "changed its inputs"),
        (["--op", "wrong.py:Explodes", *SMALL, *RANDOM, "--baseline", "none"], 1, "loss that is not finite"),
        (["--op", "wrong.py:Raises", *SMALL, *RANDOM, "--baseline", "none"], 1, "ValueError: I am broken"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_one_line_and_leaves_nothing(run, tmp_path, arguments, code, words):
    (tmp_path / "corrupt.pth").write_bytes(b"not weights")
    save_file({"head.weight": torch.zeros(3, 4)}, tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "photos")
    for i in range(8):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / f"{i}.png").write_bytes(b"no picture")
    (tmp_path / "wrong.py").write_text(
        "from gradprobe import Selection\n"
        "def Shape(patches, scores, k, noise):\n    return Selection(patches, scores[:, :2])\n"
        "def Changes(patches, scores, k, noise):\n    return Selection(patches.mul_(2), scores)\n"
        "def Explodes(patches, scores, k, noise):\n    return Selection(patches / 0 * scores[..., None], scores)\n"
        "def Raises(patches, scores, k, noise):\n    raise ValueError('I am broken')\n"
    )
    got, out, err = run("coherence", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert got == code, err
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in err + out
    assert not list(tmp_path.glob("runs/*/*.npz"))


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gradprobe", "coherence", "--op", "vpnose", "--k", "58", "--debug"])
    with pytest.raises(Exception, match="vpnose") as caught:
        cli.main()
    assert not isinstance(caught.value, SystemExit)


def test_unreadable_images_are_named_skipped_and_counted(run, tmp_path):
    photos = folder(tmp_path / "photos", names="abcdefgh")
    (photos / "x" / "a.png").write_bytes(b"no picture")
    code, out, _ = run("coherence", "--op", "scale", *SMALL, *RANDOM, "--data", "photos", "--loss", "kl")
    assert code == 0
    assert "skipped an unreadable image: x/a.png" in out


def test_a_stopped_run_keeps_what_was_answered(run, tmp_path, monkeypatch):
    from gradprobe.probes.coherence import measure as probe

    original = probe.measure

    def stops(subject, settings, resources):
        if "Scale" in repr(subject.operator):
            raise KeyboardInterrupt
        return original(subject, settings, resources)

    monkeypatch.setattr(probe, "measure", stops)
    code, _, err = run("coherence", "--op", "scale", *SMALL, *RANDOM)
    assert code == 130
    assert "stopped" in err
    assert len(list(tmp_path.glob("runs/*/*.npz"))) == 1

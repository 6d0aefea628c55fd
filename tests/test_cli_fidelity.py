"""``gradprobe fidelity`` as a user meets it: prints, stores, draws, doubles its draws, refuses in one line."""

import json

import pytest
from test_cli import run  # noqa: F401  # a fixture

SMALL = [
    "--k", "8", "--images", "4", "--held-out", "4", "--draws", "32", "--noise-draws", "3", "--sigma", "0.3,1",
    "--scorer", "mlp:width=32", "--weights", "none",
]  # fmt: skip
RANDOM = ["fidelity", "--op", "softtopk", "--baseline", "none", *SMALL, "--scores", "random"]


def test_it_prints_stores_draws_and_remembers(run, tmp_path):  # noqa: F811
    asked = ["fidelity", "--op", "softtopk", "--op", "hard", *SMALL, "--ladder", "0.001,0.1"]
    code, out, _ = run(*asked, "--figure", "f.png")
    assert code == 0
    for words in ("cos [95 %]", "cos θ [95 %]", "reference 0.3", "no gradient reaches", "RANDOM WEIGHTS", "their own"):
        assert words in " ".join(out.split())
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert len(list((tmp_path / "runs").glob("fidelity/*.npz"))) == 3
    assert len(list((tmp_path / "runs").glob("reference/*.npz"))) == 1
    told = json.loads(run(*asked, "--json")[1])
    assert told["settings"]["sigmas"] == "0.3,1" and told["settings"]["baseline"] == "gumbel-ste+gather"
    soft, hard = told["rows"][1:]
    assert not list(tmp_path.glob("runs/*/*.partial"))
    assert [at["sigma"] for at in soft["sigmas"]] == [0.3, 1] and "cosine_difference" in soft["sigmas"][0]
    assert [at["step"] for at in soft["ladder"]] == [0.001, 0.1] and soft["ladder"][1]["rate"] is not None
    assert hard["gradient"] == "none" and hard["ladder"][0]["rate"] is None
    entries = json.loads(run("list", "--json")[1])
    for probe, words in (("reference", "reliability"), ("fidelity", "centred")):
        key = next(e["key"] for e in entries if e["probe"] == probe)
        assert words in run("show", key)[1]


def test_draws_double_until_the_interval_is_narrow_enough(run, tmp_path):  # noqa: F811
    code, out, _ = run(*RANDOM, "--tolerance", "0.999", "--json")
    told = json.loads(out)
    assert code == 0 and told["rows"][0]["draws"] == 64
    assert told["settings"]["tolerance"].startswith("tolerance 0.999 reached with 64 draws")
    tighter = (told["rows"][0]["sigmas"][0]["cosine_high"] - told["rows"][0]["sigmas"][0]["cosine_low"]) / 2.02
    out = " ".join(run(*RANDOM, "--tolerance", f"{tighter:.4f}", "--budget", "60")[1].split())
    assert "reached with" in out or "stopped at" in out
    counts = sorted(e["question"]["draws"] for e in json.loads(run("list", "--json")[1]) if e["probe"] == "reference")
    assert counts[:2] == [64, 128]


def test_a_budget_ends_it_and_is_told(run):  # noqa: F811
    out = " ".join(run(*RANDOM, "--tolerance", "1e-9", "--budget", "0.001")[1].split())
    assert "stopped at 64 draws by --budget 0.001" in out and "of -+1e-09" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma", "0.1,x"], "--sigma 0.1,x"),
        (["--sigma", "-1"], "a positive number"),
        (["--sigma", ""], "--sigma"),
        (["--ladder", "big"], "--ladder big"),
        (["--draws", "100"], "a multiple of 32"),
        (["--noise-draws", "2"], "--noise-draws 2"),
        (["--images", "2"], "--images 2"),
        (["--held-out", "0"], "--held-out 0"),
        (["--k", "196"], "keeps every token"),
        (["--k", "0"], "--k 1 to --k 196"),
        (["--scores", "randm"], "did you mean 'random'"),
        (["--tolerance", "0"], "--tolerance 0"),
        (["--tolerance", "0.1", "--budget", "-1"], "--budget -1"),
        (["--workers", "0"], "--workers 0"),
        (["--figure", "f.jpg"], "not a known kind"),
        (["--op", "sotftopk"], "did you mean 'softtopk'"),
    ],
)
def test_wrong_input_is_one_clear_line_and_nothing_is_stored(run, tmp_path, arguments, words):  # noqa: F811
    code, out, err = run("fidelity", "--op", "softtopk", *SMALL, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.glob("runs/*/*.npz"))

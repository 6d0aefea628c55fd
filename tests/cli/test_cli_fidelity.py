"""``gradprobe fidelity`` as a user meets it: prints, stores, draws, doubles its draws, refuses in one line."""

import json
from types import SimpleNamespace

import pytest
from stored import array_bytes

from gradprobe.cli.fidelity import until
from gradprobe.probes.fidelity import measure, reference
from gradprobe.statistics import agreement

SMALL = [
    "--k", "8", "--images", "4", "--held-out", "4", "--draws", "32", "--noise-draws", "3", "--sigma", "0.3,1",
    "--scorer", "mlp:width=32", "--weights", "none",
]  # fmt: skip
RANDOM = ["fidelity", "--op", "softtopk", "--baseline", "none", *SMALL, "--scores", "random"]


def test_it_prints_stores_draws_and_remembers(run, tmp_path):
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


def test_a_tolerance_that_the_first_draws_reach_needs_no_more(run):
    told = json.loads(run(*RANDOM, "--tolerance", "0.999", "--json")[1])
    assert told["rows"][0]["draws"] == 64
    assert told["settings"]["tolerance"].startswith("tolerance 0.999 reached with 64 draws")


def test_draws_double_until_the_interval_is_narrow_enough(run, tmp_path, monkeypatch):
    widths = iter([0.6, 0.4])
    monkeypatch.setattr(agreement, "widest", lambda rows: next(widths))
    out = " ".join(run(*RANDOM, "--tolerance", "0.5")[1].split())
    assert "tolerance 0.5 reached with 128 draws: the widest interval is -+0.400" in out
    assert len(list(tmp_path.glob("runs/fidelity/*.npz"))) == len(list(tmp_path.glob("runs/reference/*.npz"))) == 2
    assert run(*RANDOM, "--draws", "128", "--results", "whole")[0] == 0
    answers = list(tmp_path.glob("whole/*/*.npz"))
    assert len(answers) == 2
    for whole in answers:  # the 128 draws went on from the 64
        assert array_bytes(whole) == array_bytes(tmp_path / "runs" / whole.relative_to(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("budget", "tolerance", "words"),
    [
        (1000, 0.3, "tolerance 0.3 reached with 512 draws: the widest interval is -+0.283"),
        (11, 0.3, "stopped at 128 draws by --budget 11: 256 would take about 11 s more than the 0 s spent; reached"),
        (7, 0.3, "stopped at 64 draws by --budget 7: 128 would take about 7 s more than the 0 s spent; reached"),
        (1000, 0.9, "tolerance 0.9 reached with 64 draws"),
    ],
)
def test_the_loop_stops_at_the_tolerance_or_before_the_budget_is_exceeded(budget, tolerance, words):
    """64 draws take 4 s, and the operator 3 s each time; intervals narrow with the root of the draws."""
    starts, results = [], []

    def answer(seconds, half=0.0):
        row = {"gradient": "yes", "sigmas": [{"cosine": 0.0, "cosine_low": -half, "cosine_high": half}]}
        return SimpleNamespace(result=SimpleNamespace(environment={"seconds": seconds}, row=lambda: row))

    def measured(draws, references):
        starts.append(references)
        new = draws if references is None else draws // 2
        reference = answer(4 * new / 64)
        results.append(reference.result)
        return [reference], [answer(3, 0.8 * (64 / draws) ** 0.5)]

    answers, sentence = until(measured, tolerance, budget)
    assert sentence.startswith(words) and len(answers) == 1
    assert starts == [None, *([result] for result in results[:-1])]


def test_lists_are_swept_and_each_budget_has_one_reference(run, tmp_path, monkeypatch):
    several = ["--k", "8,20", "--noise-draws", "3,4", "--op", "scale"]
    told = json.loads(run(*RANDOM, *several, "--json")[1])
    assert [(row["op"], row["k"], row["noise_draws"]) for row in told["rows"]] == [
        (op, k, draws) for op in ("lapsum+attention", "lapsum+scale") for k in (8, 20) for draws in (3, 4)
    ]
    assert len(list(tmp_path.glob("runs/reference/*.npz"))) == 2
    monkeypatch.setenv("COLUMNS", "200")
    assert "lapsum+scale (K = 20, noise_draws = 4) " in run(*RANDOM, *several)[1]
    out = run("fidelity", "--op", "softtopk", "--baseline", "none", *SMALL, "--scores", "scorer,random")[1]
    assert "lapsum+attention (scores = scorer) " in out and "lapsum+attention (scores = random) " in out


def test_force_measures_each_operator_and_their_reference_once(run, monkeypatch):
    calls = []
    for module, name in ((reference, "block_gradients"), (measure, "score_gradients")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=original: calls.append(f.__name__) or f(*a))
    asked = [*RANDOM, "--op", "scale"]
    assert run(*asked)[1].count("stored: ") == 2
    assert calls == ["block_gradients", "score_gradients", "score_gradients"]
    assert run(*asked)[1].count("from the store") == 2 and len(calls) == 3
    assert run(*asked, "--force")[1].count("stored: ") == 2
    assert calls[3:] == calls[:3]


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
        (["--tolerance", "1"], "half the width of an interval"),
        (["--tolerance", "0.1", "--budget", "-1"], "--budget -1"),
        (["--tolerance", "0.1", "--budget", "600s"], "--budget 600s is not possible; give a positive number"),
        (["--budget", "60"], "--budget 60 goes with --tolerance"),
        (["--workers", "0"], "--workers 0"),
        (["--figure", "f.jpg"], "not a known kind"),
        (["--op", "sotftopk"], "did you mean 'softtopk'"),
    ],
)
def test_wrong_input_is_one_clear_line_and_nothing_is_stored(run, tmp_path, arguments, words):
    code, out, err = run("fidelity", "--op", "softtopk", *SMALL, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.glob("runs/*/*.npz"))

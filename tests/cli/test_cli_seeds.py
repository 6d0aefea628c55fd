"""``--seeds``: ranges, rows pooled over seeds beside those of each seed, and what is drawn of several."""

import json

import pytest

from gradprobe.probes.seeds import over_seeds
from gradprobe.statistics import agreement
from gradprobe.store.results import Store

SMALL = ["--k", "8", "--scorer", "mlp:width=4"]
COHERENCE = ["coherence", "--op", "vpnoise", *SMALL, "--batches", "3", "--batch-size", "2"]
LINE = ["landscape", "--op", "vpnoise", *SMALL, "--line", "--grid", "5", "--images", "2"]
FIDELITY = [
    "fidelity", "--op", "softtopk", "--baseline", "none", *SMALL, "--images", "4", "--noise-draws", "3",
    "--draws", "32", "--sigma", "1", "--scores", "random",
]  # fmt: skip


def test_a_row_is_pooled_over_seeds_and_those_of_each_seed_are_beside_it(run, tmp_path):
    answer = json.loads(run(*COHERENCE, "--seeds", "1..3", "--json")[1])
    rows, each = answer["rows"], answer["each_seed"]
    assert answer["settings"]["seeds"] == [1, 2, 3] and "seed" not in answer["settings"]
    assert [row["op"] for row in rows] == ["gumbel-ste+gather", "lapsum+vpnoise"]
    assert [(row["op"], row["seed"]) for row in each] == [(row["op"], s) for row in rows for s in (1, 2, 3)]
    for row in rows:
        own = [one for one in each if one["op"] == row["op"]]
        assert row["by_seed"]["coherence"] == [one["coherence"] for one in own] and len(row["paths"]) == 3
        assert row["low"] is row["high"] is None
    base, ours = ([Store(tmp_path / "runs").load(tmp_path / path) for path in row["paths"]] for row in rows)
    python = over_seeds(ours, base)
    assert {name: rows[1][name] for name in python if name != "paths"} | {"paths": []} == python
    alone = json.loads(run(*COHERENCE, "--seed", "3", "--json")[1])
    assert "each_seed" not in alone and alone["settings"]["seed"] == 3
    assert [row | {"seed": 3} for row in alone["rows"]] == [row for row in each if row["seed"] == 3]


def test_other_lists_have_rows_of_their_own(run):
    rows = json.loads(run(*COHERENCE, "--seeds", "1,2", "--draws", "2,3", "--baseline", "none", "--json")[1])["rows"]
    assert [(row["draws"], row["seeds"], row["difference_seeds"]) for row in rows] == [
        (2, [1, 2], None),
        (3, [1, 2], None),
    ]
    code, out, _ = run(*COHERENCE, "--seeds", "1,2", "--figure", "f.svg")
    words = " ".join(out.split())
    assert code == 0 and "seed =" not in words and "· (2 seeds)" in words and "figure: f.svg" in words


def test_weights_that_are_random_are_the_seeds(run):
    rows = json.loads(run(*COHERENCE, "--seeds", "1,2", "--weights", "none", "--json")[1])["rows"]
    assert [row["seeds"] for row in rows] == [[1, 2], [1, 2]] and rows[1]["difference_seeds"] == 2


@pytest.mark.parametrize("drawing", ["figure", "page"])
def test_a_landscape_of_several_seeds_is_drawn_of_the_first_and_says_so(run, tmp_path, drawing):
    file = {"figure": "f.svg", "page": "p.html"}[drawing]
    code, out, _ = run(*LINE, "--seeds", "1,3", f"--{drawing}", file)
    words = " ".join(out.split())
    assert code == 0 and "drawn: seed 1, the first of 2; --seed 3 draws another" in words and "2 seeds: means" in words
    several = (tmp_path / file).read_bytes()
    assert run(*LINE, "--seed", "1", f"--{drawing}", file)[0] == 0
    if drawing == "page":
        assert several == (tmp_path / file).read_bytes()
    assert "drawn:" not in run(*LINE, "--seeds", "1,3")[1]


def test_under_a_tolerance_all_seeds_get_as_many_draws(run, monkeypatch):
    widths = iter([0.6, 0.4])
    seen = []
    monkeypatch.setattr(agreement, "widest", lambda rows: seen.append(len(rows)) or next(widths))
    answer = json.loads(run(*FIDELITY, "--tolerance", "0.5", "--seeds", "1,2", "--json")[1])
    assert seen == [2, 2] and "reached with 128 draws" in answer["settings"]["tolerance"]
    (row,) = answer["rows"]
    assert row["draws"] == 128 and row["seeds"] == [1, 2] and len(row["sigmas"][0]["by_seed"]["cosine"]) == 2


def test_retention_takes_ranges(run):
    asked = ["retention", "--op", "vpnoise", "--baseline", "none", *SMALL, "--steps", "1", "--batch-size", "2"]
    asked += ["--images", "4", "--rankings", "none"]
    (row,) = json.loads(run(*asked, "--seeds", "1..2,4", "--json")[1])["rows"]
    assert row["seeds"] == [1, 2, 4] and len(row["by_seed"]) == 3


def test_probes_that_are_not_pooled_have_a_row_for_each_seed(run):
    asked = ["equivalence", "--op", "vpnoise", "--k", "8", "--images", "4", "--seed", "1..2", "--json"]
    answer = json.loads(run(*asked)[1])
    assert {row["seed"] for row in answer["rows"]} == {1, 2} and "each_seed" not in answer


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("1..3,2", "seed 2 is named twice in --seeds 1..3,2; name each seed once"),
        ("1,1", "seed 1 is named twice"),
        ("5..1", "5..1 in --seeds 5..1 names no seed; a range rises: 1..5"),
        ("", "give whole numbers, ranges or both: --seeds 1..5 or --seeds 1,2,7"),
        ("1..", "--seeds 1.. is not possible"),
        ("1...3", "--seeds 1...3 is not possible"),
        ("1.5", "--seeds 1.5 is not possible"),
        ("1,,2", "--seeds 1,,2 is not possible"),
        ("a..b", "--seeds a..b is not possible"),
        ("-1", "--seeds -1 is not possible; give a whole number of at least 0"),
        ("0..2147483648", "too many seeds; give at most 1000"),
    ],
)
@pytest.mark.parametrize("command", [COHERENCE, LINE, FIDELITY, ["retention", "--op", "vpnoise"]])
def test_seeds_that_are_no_seeds_are_refused_before_a_model_is_opened(run, monkeypatch, command, typed, words):
    import gradprobe.tasks

    monkeypatch.setattr(gradprobe.tasks, "load_backbone", None)
    code, out, err = run(*command, f"--seeds={typed}")
    assert code == 2 and words in " ".join(err.split()) and not out
